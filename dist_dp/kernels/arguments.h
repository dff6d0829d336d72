/* What Python gives a kernel: contiguous arrays and numbers, checked before anything is computed. */

#ifndef DIST_DP_ARGUMENTS_H
#define DIST_DP_ARGUMENTS_H

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <stdint.h>
#include <string.h>

/* One argument, by its letter in the specification of a function:
   r  float32 array that is read          w  float32 array that is written
   i  int64 array that is read            j  int64 array that is written
   f  number                              n  whole number */
typedef struct {
    Py_buffer array;
    Py_ssize_t size; /* elements of an array, or the whole number */
    double number;
} Argument;

/* Takes the arguments that `kinds` says; 0, or -1 with an exception set. */
int take(const char *kinds, PyObject *const *given, Py_ssize_t count, Argument *arguments);

/* Lets go of what was taken. */
void release(const char *kinds, Argument *arguments);

/* Whether the arrays `first` to `last` have `size` elements; if not, an exception is set. */
int sized(const Argument *arguments, int first, int last, Py_ssize_t size);

/* Whether they are equally many rows of `n` > 0 elements. */
int are_rows(const Argument *arguments, int first, int last, Py_ssize_t n);

#define FLOATS(k) ((float *)a[k].array.buf)
#define WHOLES(k) ((int64_t *)a[k].array.buf)
#define NUMBER(k) ((float)a[k].number)
#define SIZE(k) (a[k].size)

/* A function of the module: takes its arguments, checks `fits`, and runs `work` without the interpreter's lock. */
#define FUNCTION(name, kinds, fits, work)                                                          \
    static PyObject *name##_function(PyObject *module, PyObject *const *given, Py_ssize_t count) { \
        Argument a[sizeof(kinds)];                                                                 \
        (void)module;                                                                              \
        if (take(kinds, given, count, a) < 0) return NULL;                                         \
        int good = (fits);                                                                         \
        if (good) {                                                                                \
            Py_BEGIN_ALLOW_THREADS                                                                 \
            work;                                                                                  \
            Py_END_ALLOW_THREADS                                                                   \
        }                                                                                          \
        release(kinds, a);                                                                         \
        if (!good) return NULL;                                                                    \
        Py_RETURN_NONE;                                                                            \
    }

#define ENTRY(name) {#name, (PyCFunction)(void (*)(void))name##_function, METH_FASTCALL, NULL}

#endif
