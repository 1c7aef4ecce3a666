/* noise.h - PyTorch's normal random numbers, drawn on the host. */
#ifndef MODEL_SAMPLING_NOISE_H
#define MODEL_SAMPLING_NOISE_H

#include <stdint.h>

/* torch.randn(n) of a CPU generator with this seed: its vector code for n >= 16, else its scalar
 * code. */
void noise_cpu(float *out, int64_t n, uint64_t seed);

/* torch.randn(n, device="cuda") of a fresh generator, on a GPU of `sms` multiprocessors of 2,048
 * threads. */
void noise_cuda(float *out, int64_t n, uint64_t seed, int sms);

#endif
