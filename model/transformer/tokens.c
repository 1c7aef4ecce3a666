#include "model/transformer/dit.h"

/* Offset in tokens [T * H/2 * W/2, 4C] of the value at (c, t, y, x). */
static int64_t token_offset(int64_t c, int64_t h, int64_t w, int64_t ch, int64_t t, int64_t y,
                            int64_t x)
{
    const int64_t token = (t * (h / 2) + y / 2) * (w / 2) + x / 2;

    return (token * 4 + y % 2 * 2 + x % 2) * c + ch;
}

void tokens_from_latent(float *tokens, const float *latent, int64_t c, int64_t t, int64_t h,
                        int64_t w)
{
    for (int64_t ch = 0; ch < c; ch++)
        for (int64_t i = 0; i < t; i++)
            for (int64_t y = 0; y < h; y++)
                for (int64_t x = 0; x < w; x++)
                    tokens[token_offset(c, h, w, ch, i, y, x)] = *latent++;
}

void latent_from_tokens(float *latent, const float *tokens, int64_t c, int64_t t, int64_t h,
                        int64_t w)
{
    for (int64_t ch = 0; ch < c; ch++)
        for (int64_t i = 0; i < t; i++)
            for (int64_t y = 0; y < h; y++)
                for (int64_t x = 0; x < w; x++)
                    *latent++ = tokens[token_offset(c, h, w, ch, i, y, x)];
}
