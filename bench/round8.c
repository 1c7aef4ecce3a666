#include "bench/round8.h"
#include "runtime/fp8.h"
#include "runtime/half.h"

#include <math.h>

#define GROUP 128

static float get(struct tensor t, int64_t at)
{
    return t.dtype == DT_BF16 ? f32_from_bf16(((const uint16_t *)t.data)[at])
                              : ((const float *)t.data)[at];
}

static void put(struct tensor t, int64_t at, float v)
{
    if (t.dtype == DT_BF16)
        ((uint16_t *)t.data)[at] = bf16_from_f32(v);
    else
        ((float *)t.data)[at] = v;
}

/* The Hadamard transform of a group, in place. */
static void turn(float *v)
{
    for (int i = 1; i < GROUP; i *= 2)
        for (int j = 0; j < GROUP; j++)
            if ((j & i) == 0) {
                const float a = v[j], b = v[j + i];

                v[j] = a + b;
                v[j + i] = a - b;
            }
    for (int j = 0; j < GROUP; j++)
        v[j] *= 0.08838834764831845f; // 1 / sqrt(GROUP)
}

static float as_e4m3(float v)
{
    return f32_from_e4m3(e4m3_from_f32(v));
}

static float rounded8(float v, float most, enum round8_kind kind)
{
    const float scale = fmaxf(most, FP8_LEAST) / (kind <= ROUND8_E4M3_TWICE ? FP8_MAX : 127.0f);
    float high;

    v /= scale;
    if (kind > ROUND8_E4M3_TWICE)
        return rintf(v) * scale;
    high = as_e4m3(v);
    if (kind == ROUND8_E4M3_TWICE)
        high += as_e4m3(v - high);
    return high * scale;
}

static void load_group(float *v, struct tensor x, int64_t at, enum round8_kind kind)
{
    for (int i = 0; i < GROUP; i++)
        v[i] = get(x, at + i);
    if (kind >= ROUND8_TURNED)
        turn(v);
}

static float most_of(const float *v)
{
    float most = 0;

    for (int i = 0; i < GROUP; i++)
        most = fmaxf(most, fabsf(v[i]));
    return most;
}

static status round8_cpu(struct tensor out, struct tensor x, enum round8_kind kind)
{
    const bool grouped = kind == ROUND8_INT8_128 || kind == ROUND8_TURNED_128;

#pragma omp parallel for
    for (int64_t r = 0; r < x.dim[0]; r++) {
        float v[GROUP], most = 0;

        for (int64_t g = 0; g < x.dim[1] && !grouped; g += GROUP) {
            load_group(v, x, r * x.stride[0] + g, kind);
            most = fmaxf(most, most_of(v));
        }
        for (int64_t g = 0; g < x.dim[1]; g += GROUP) {
            load_group(v, x, r * x.stride[0] + g, kind);
            if (grouped)
                most = most_of(v);
            for (int i = 0; i < GROUP; i++)
                v[i] = rounded8(v[i], most, kind);
            if (kind >= ROUND8_TURNED)
                turn(v);
            for (int i = 0; i < GROUP; i++)
                put(out, r * out.stride[0] + g + i, v[i]);
        }
    }
    return ST_OK;
}

status round8(struct device *dev, struct tensor out, struct tensor x, enum round8_kind kind)
{
    return dev->kind == DEVICE_CUDA ? round8_cuda(dev, out, x, kind) : round8_cpu(out, x, kind);
}
