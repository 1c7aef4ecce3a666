/* resize.h - the ways in which the official programs resize images, with their rounding. All
 * functions are local. */
#ifndef MODEL_MEDIA_RESIZE_H
#define MODEL_MEDIA_RESIZE_H

#include "model/media/image.h"

enum pil_filter { PIL_BICUBIC, PIL_LANCZOS, PIL_BILINEAR };

/* As PIL's Image.resize((w, h), filter) of an RGB image, bit for bit: filters that widen with the
 * scale (antialias), weights of 22 bits, rows then columns, each pass rounded to bytes. *out is
 * another image than *in. ST_MEMORY. Source: Pillow src/libImaging/Resample.c. */
status resize_pil(struct image *out, const struct image *in, int w, int h, enum pil_filter filter);

/* out = torch.nn.functional.interpolate(image, (h, w), mode='bicubic', antialias=True) of bytes,
 * channels last, on a CPU with AVX2, bit for bit: as resize_pil, but with the most bits that
 * weights of 16 bits can have. *out is another image than *in. ST_MEMORY. Source: pytorch
 * aten/src/ATen/native/cpu/UpSampleKernelAVXAntialias.h. */
status resize_torch_bytes(struct image *out, const struct image *in, int w, int h);

/* A part of an image. It may reach out of it: values there are 0. */
struct window {
    int x, y, w, h;
};

/* out [h, w, 3] f32 = torch.nn.functional.interpolate(window, (h, w), mode='bicubic') of the bytes
 * as image_unit: four taps (a = -0.75) at any scale, no antialias, values may leave [-1, 1]. In
 * PyTorch's order and with its fused multiply-adds on CPUs with AVX2. ST_MEMORY.
 * Source: pytorch aten/src/ATen/native/cpu/UpSampleKernel.cpp. */
status resize_torch(float *out, int w, int h, const struct image *in, struct window window);

/* out [h, w, 3] f32, rows `stride` floats apart = the same of the whole image with mode='bilinear'.
 * ST_MEMORY. */
status resize_torch_linear(float *out, int64_t stride, int w, int h, const struct image *in);

/* out [h, w, 3] f32 = torch's bilinear interpolation with antialias of the bytes as v / 255 * 2 -
 * 1: the filter of PIL_BILINEAR, in f32, columns after rows. ST_MEMORY. */
status resize_linear(float *out, int w, int h, const struct image *in);

#endif
