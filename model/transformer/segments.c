#include "model/transformer/segments.h"

#include "parallel/split.h"

#include <assert.h>
#include <string.h>

void segments_of_latent(struct segments *s, int64_t f, int64_t h, int64_t w, int64_t known)
{
    const struct segment whole = {
        .tokens = f * h * w, .grid = { f, h, w, 0 }, .time = TIME_STEP, .latent = true
    };

    *s = (struct segments){ .count = 1, .segment = { whole } };
    if (known == 0)
        return;
    s->segment[0].tokens = known * h * w;
    s->segment[0].time = TIME_ZERO;
    if (known == f)
        return;
    s->segment[1] = whole;
    s->segment[1].tokens -= known * h * w;
    s->segment[1].grid.first = known * h * w;
    s->count = 2;
}

void segments_prepend(struct segments *s, struct segment segment)
{
    assert(s->count < SEGMENTS_MAX && !segment.latent);
    memmove(&s->segment[1], &s->segment[0], (size_t)s->count * sizeof(segment));
    s->segment[0] = segment;
    s->count++;
}

void segments_append(struct segments *s, struct segment segment)
{
    assert(s->count < SEGMENTS_MAX && !segment.latent);
    s->segment[s->count++] = segment;
}

int64_t segments_tokens(const struct segments *s)
{
    int64_t sum = 0;

    for (int i = 0; i < s->count; i++)
        sum += s->segment[i].tokens;
    return sum;
}

static int64_t clamp(int64_t x, int64_t high)
{
    return x < 0 ? 0 : x > high ? high : x;
}

void spans_of(struct spans *out, const struct segments *s, int parts, int part)
{
    const int64_t all = segments_tokens(s);
    const int64_t from = split_at(all, parts, part), to = split_at(all, parts, part + 1);
    int64_t at = 0; // tokens before the segment

    *out = (struct spans){ 0 };
    for (int i = 0; i < s->count; at += s->segment[i++].tokens) {
        const struct segment *g = &s->segment[i];
        const int64_t a = clamp(from - at, g->tokens), b = clamp(to - at, g->tokens);
        struct span *p = &out->span[out->count];

        out->latent_first += g->latent ? a : 0; // latent tokens on lower ranks
        if (a == b)
            continue;
        *p = (struct span){ at + a - from, b - a, g->grid, g->time, g->latent, i };
        p->grid.first += a;
        out->count++;
        if (g->latent && out->latent_rows == 0)
            out->latent_row = p->first;
        out->latent_rows += g->latent ? b - a : 0;
    }
}
