/* noise.h - PyTorch's normal random numbers, drawn on the host. */
#ifndef MODEL_SAMPLING_NOISE_H
#define MODEL_SAMPLING_NOISE_H

#include <stdint.h>

enum noise_device { NOISE_CPU, NOISE_CUDA };

#define NOISE_TWISTER 624

/* A torch.Generator: each draw continues where the one before ended. A plain value: a copy gives
 * the same numbers again. */
struct noise {
    enum noise_device device;
    uint64_t seed;
    int sms;        // NOISE_CUDA: of a GPU with so many multiprocessors of 2,048 threads
    uint64_t calls; // NOISE_CUDA: of each thread's generator until now
    uint32_t twister[NOISE_TWISTER]; // NOISE_CPU
    int next;                        // NOISE_CPU: index of the next number of `twister`
};

/* torch.Generator(device).manual_seed(seed). sms is used for NOISE_CUDA only. */
void noise_open(struct noise *g, enum noise_device device, uint64_t seed, int sms);

/* torch.randn(n, generator=g). On the CPU that is PyTorch's vector code for n >= 16, else its
 * scalar code; after the latter the generator cannot be used again. */
void noise_draw(struct noise *g, float *out, int64_t n);

/* Goes on as if so many draws of n numbers had been made. n >= 16. */
void noise_skip(struct noise *g, int64_t n, int draws);

#endif
