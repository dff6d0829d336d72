/* The module `dist_dp.kernels._compiled`. */

#include "module.h"

static int add_functions(PyObject *module) {
    PyMethodDef *tables[] = {conv_functions,    elementwise_functions, images_functions,   indices_functions,
                             normalise_functions, product_functions,   recurrent_functions, rows_functions};
    for (size_t k = 0; k < sizeof tables / sizeof *tables; k++)
        if (PyModule_AddFunctions(module, tables[k]) < 0) return -1;
    if (PyModule_AddIntConstant(module, "fuses", fuses()) < 0) return -1;
    return PyModule_AddStringConstant(module, "source", SOURCE); /* of `build.py` */
}

static PyModuleDef_Slot slots[] = {{Py_mod_exec, add_functions}, {0, NULL}};

static struct PyModuleDef definition = {
    .m_base = PyModuleDef_HEAD_INIT, .m_name = "_compiled", .m_slots = slots};

PyMODINIT_FUNC PyInit__compiled(void) { return PyModuleDef_Init(&definition); }
