/* The functions of the module, by file. */

#ifndef DIST_DP_MODULE_H
#define DIST_DP_MODULE_H

#include "arguments.h"

extern PyMethodDef conv_functions[];
extern PyMethodDef elementwise_functions[];
extern PyMethodDef images_functions[];
extern PyMethodDef indices_functions[];
extern PyMethodDef normalise_functions[];
extern PyMethodDef product_functions[];
extern PyMethodDef recurrent_functions[];
extern PyMethodDef rows_functions[];

/* Whether this processor fuses multiply-adds; if not, products and convolutions are NumPy's (`product.c`). */
int fuses(void);

#endif
