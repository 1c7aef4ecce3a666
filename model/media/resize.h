/* resize.h - the two ways in which the official programs resize images, with their rounding. Both
 * functions are local. */
#ifndef MODEL_MEDIA_RESIZE_H
#define MODEL_MEDIA_RESIZE_H

#include "model/media/image.h"

enum pil_filter { PIL_BICUBIC, PIL_LANCZOS };

/* As PIL's Image.resize((w, h), filter) of an RGB image, bit for bit: filters that widen with the
 * scale (antialias), weights of 22 bits, rows then columns, each pass rounded to bytes. *out is
 * another image than *in. ST_MEMORY. Source: Pillow src/libImaging/Resample.c. */
status resize_pil(struct image *out, const struct image *in, int w, int h, enum pil_filter filter);

/* A part of an image. It may reach out of it: values there are 0. */
struct window {
    int x, y, w, h;
};

/* out [h, w, 3] f32 = torch.nn.functional.interpolate(window, (h, w), mode='bicubic') of the bytes
 * as image_unit: four taps (a = -0.75) at any scale, no antialias, values may leave [-1, 1]. In
 * PyTorch's order and with its fused multiply-adds on CPUs with AVX2. ST_MEMORY.
 * Source: pytorch aten/src/ATen/native/cpu/UpSampleKernel.cpp. */
status resize_torch(float *out, int w, int h, const struct image *in, struct window window);

#endif
