"""Run a script on a Ray cluster: `python cluster/submit.py --address http://HEAD:8265 -n 4:16 train.py`.

The command `dist-dp submit` as a script, for where commands of packages are not on the PATH. `--help` tells
its options.
"""

from dist_dp.commands.submit import submit

if __name__ == "__main__":
    submit(prog_name="submit.py")
