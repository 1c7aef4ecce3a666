/* device_internal.h - shared by device.c and the files of the kinds. */
#ifndef RUNTIME_DEVICE_INTERNAL_H
#define RUNTIME_DEVICE_INTERNAL_H

#include "runtime/device.h"

void device_cuda_done(struct device *dev); // destroys the streams

#endif
