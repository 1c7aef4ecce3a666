/* noise_internal.h - the part of noise.h that imitates a GPU. */
#ifndef MODEL_SAMPLING_NOISE_INTERNAL_H
#define MODEL_SAMPLING_NOISE_INTERNAL_H

#include <stdint.h>

/* torch.randn(n, device="cuda") after `calls` calls of each thread's generator. */
void noise_cuda(float *out, int64_t n, uint64_t seed, int sms, uint64_t calls);

/* The calls of each thread's generator that torch.randn(n) reserves. */
uint64_t noise_cuda_calls(int64_t n, int sms);

#endif
