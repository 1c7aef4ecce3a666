/* device_internal.h - what device.c and the file behind one kind share. */
#ifndef RUNTIME_DEVICE_INTERNAL_H
#define RUNTIME_DEVICE_INTERNAL_H

#include "runtime/device.h"

void device_cuda_done(struct device *dev); // gives back the stream

#endif
