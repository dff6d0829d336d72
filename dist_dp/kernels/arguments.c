#include "arguments.h"

static int take_array(PyObject *given, int writable, char format, Argument *argument) {
    int flags = PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | (writable ? PyBUF_WRITABLE : 0);
    if (PyObject_GetBuffer(given, &argument->array, flags) < 0) return -1;
    const char *found = argument->array.format;
    /* int64 is "l" or "q", as the platform's C has it. */
    int good = format == 'f' ? !strcmp(found, "f")
                             : argument->array.itemsize == 8 && (!strcmp(found, "l") || !strcmp(found, "q"));
    if (!good) {
        PyErr_Format(PyExc_TypeError, "expected an array of %s, got format '%s'", format == 'f' ? "float32" : "int64", found);
        PyBuffer_Release(&argument->array);
        return -1;
    }
    argument->size = argument->array.len / argument->array.itemsize;
    return 0;
}

static int take_one(char kind, PyObject *given, Argument *argument) {
    switch (kind) {
        case 'r': return take_array(given, 0, 'f', argument);
        case 'w': return take_array(given, 1, 'f', argument);
        case 'i': return take_array(given, 0, 'i', argument);
        case 'j': return take_array(given, 1, 'i', argument);
        case 'f':
            argument->number = PyFloat_AsDouble(given);
            return argument->number == -1.0 && PyErr_Occurred() ? -1 : 0;
        default:
            argument->size = PyNumber_AsSsize_t(given, PyExc_OverflowError);
            return argument->size == -1 && PyErr_Occurred() ? -1 : 0;
    }
}

static void release_first(const char *kinds, Py_ssize_t count, Argument *arguments) {
    for (Py_ssize_t k = 0; k < count; k++)
        if (kinds[k] != 'f' && kinds[k] != 'n') PyBuffer_Release(&arguments[k].array);
}

int take(const char *kinds, PyObject *const *given, Py_ssize_t count, Argument *arguments) {
    Py_ssize_t expected = (Py_ssize_t)strlen(kinds);
    if (count != expected) {
        PyErr_Format(PyExc_TypeError, "expected %zd arguments, got %zd", expected, count);
        return -1;
    }
    for (Py_ssize_t k = 0; k < count; k++)
        if (take_one(kinds[k], given[k], &arguments[k]) < 0) {
            release_first(kinds, k, arguments);
            return -1;
        }
    return 0;
}

void release(const char *kinds, Argument *arguments) { release_first(kinds, (Py_ssize_t)strlen(kinds), arguments); }

int sized(const Argument *arguments, int first, int last, Py_ssize_t size) {
    for (int k = first; k <= last; k++)
        if (arguments[k].size != size) {
            PyErr_Format(PyExc_ValueError, "argument %d must have %zd elements, got %zd", k, size, arguments[k].size);
            return 0;
        }
    return 1;
}

int are_rows(const Argument *arguments, int first, int last, Py_ssize_t n) {
    Py_ssize_t size = arguments[first].size;
    if (n < 1 || size % n) {
        PyErr_Format(PyExc_ValueError, "argument %d must be rows of %zd elements, got %zd", first, n, size);
        return 0;
    }
    return sized(arguments, first, last, size);
}
