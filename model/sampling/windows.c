#include "model/sampling/windows.h"

#include <assert.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

bool windows_divide(const struct window_settings *set, int frames)
{
    return set->kind != WINDOWS_OFF && frames > set->frames;
}

void windows_done(struct windows *w)
{
    free(w->length);
    free(w->index);
    free(w->weight);
    *w = (struct windows){ 0 };
}

static int *indexes(const struct windows *w, int window)
{
    return w->index + (size_t)window * (size_t)w->frames;
}

/* Inserts a window before number `at`, with `length` frames from `first` on; of each stride-th
 * frame, modulo `frames`. */
static status insert(struct windows *w, int at, int length, int first, int stride, int frames)
{
    const size_t row = (size_t)w->frames, count = (size_t)w->count + 1;
    int *l = realloc(w->length, count * sizeof(*l)), *all;

    w->length = l != NULL ? l : w->length;
    all = realloc(w->index, count * row * sizeof(*all));
    w->index = all != NULL ? all : w->index;
    if (l == NULL || all == NULL)
        return fail(ST_MEMORY, "cannot allocate host memory for %zu windows", count);
    memmove(l + at + 1, l + at, (size_t)(w->count - at) * sizeof(*l));
    memmove(all + (size_t)(at + 1) * row, all + (size_t)at * row,
            (size_t)(w->count - at) * row * sizeof(*all));
    w->count++;
    l[at] = length;
    for (int i = 0; i < length; i++)
        all[(size_t)at * row + (size_t)i] = (first + i * stride) % frames;
    return ST_OK;
}

static void delete (struct windows *w, int at)
{
    const size_t row = (size_t)w->frames, after = (size_t)(--w->count - at);

    memmove(w->length + at, w->length + at + 1, after * sizeof(*w->length));
    memmove(indexes(w, at), indexes(w, at + 1), after * row * sizeof(*w->index));
}

static status sliding(struct windows *w, const struct window_settings *set, int frames)
{
    for (int t = 0; t < frames; t += set->stride) {
        const int rest = frames - t;

        if (t > 0 && t - set->stride + set->frames >= frames)
            break;
        TRY(insert(w, w->count, rest < set->frames ? rest : set->frames, t, 1, frames));
    }
    return ST_OK;
}

static status fixed(struct windows *w, const struct window_settings *set, int frames)
{
    const int step = set->frames - set->overlap;

    for (int t = 0;; t += step) {
        const bool last = t + set->frames >= frames;

        TRY(insert(w, w->count, set->frames, last ? frames - set->frames : t, 1, frames));
        if (last)
            return ST_OK;
    }
}

/* The bits of the step in reverse order, as a binary fraction. */
static double halving(int step)
{
    double value = 0;

    for (int bit = 0; bit < 31; bit++)
        value += (step >> bit & 1) * ldexp(1, -1 - bit);
    return value;
}

static status uniform(struct windows *w, const struct window_settings *set, int frames, int step)
{
    const int most = (int)ceil(log2((double)frames / set->frames)) + 1;
    const int strides = set->stride < most ? set->stride : most;
    const int pad = (int)nearbyint(frames * halving(step));

    for (int i = 0; i < strides; i++) {
        const int stride = 1 << i;

        if (set->kind == WINDOWS_UNIFORM && (set->frames - 1) * stride >= frames)
            break; // there is no place for such a window
        for (int t = (int)(halving(step) * stride) + pad; t < frames + pad;
             t += set->frames * stride - set->overlap)
            TRY(insert(w, w->count, set->frames, t, stride, frames));
    }
    return ST_OK;
}

static bool contains(const struct windows *w, int window, int frame)
{
    for (int i = 0; i < w->length[window]; i++)
        if (indexes(w, window)[i] == frame)
            return true;
    return false;
}

/* Moves the windows that go beyond the last frame back to it. A frame where such a window went on
 * gets a window of its own, if the next one does not have it. Of equal windows one is kept. */
static status unroll(struct windows *w, const struct window_settings *set, int frames)
{
    const size_t bytes = (size_t)set->frames * sizeof(*w->index);

    for (int k = 0; k < w->count; k++) {
        int *index = indexes(w, k), at = 1, roll, move;

        while (at < set->frames && index[at] >= index[at - 1])
            at++;
        if (at == set->frames)
            continue;
        roll = index[at];
        for (int i = set->frames - 1; i >= 0; i--)
            index[i] = (index[i] - index[0] + frames) % frames;
        move = frames - 1 - index[set->frames - 1];
        for (int i = 0; i < set->frames; i++)
            index[i] += move;
        if (!contains(w, (k + 1) % w->count, roll) && roll + set->frames <= frames)
            TRY(insert(w, k + 1, set->frames, roll, 1, frames));
    }
    for (int k = w->count - 1; k > 0; k--)
        for (int i = 0; i < k; i++)
            if (memcmp(indexes(w, i), indexes(w, k), bytes) == 0) {
                delete (w, k);
                break;
            }
    return ST_OK;
}

/* Number i of n equally spaced numbers from 0 to 1, or the same from the end; one is the first. */
static double rise(int i, int n)
{
    return n > 1 ? (double)i / (n - 1) : 0;
}

static double fall(int back, int n)
{
    return n > 1 ? (double)back / (n - 1) : 1;
}

/* The weight of frame i of a window, before the division by the sum. */
static double weight_of(const struct windows *w, const struct window_settings *set, int frames,
                        int window, int i)
{
    const int n = w->length[window], back = n - 1 - i;
    const bool looped = set->kind == WINDOWS_LOOPED;
    const bool first = contains(w, window, 0), last = contains(w, window, frames - 1);
    double weight = 1;

    if (set->kind == WINDOWS_SLIDING) {
        const int border = set->frames - set->stride;

        if (!first && i < border)
            weight = (i + 0.5) / border;
        if (!last && back < border) // as there, instead of the other edge's
            weight = (back + 0.5) / border;
        return weight;
    }
    if (set->pyramid) {
        weight = (i < back ? i + 1 : back + 1) / (double)((n + 1) / 2);
        if (!looped && first && i < set->overlap)
            weight = fmax(weight, rise(i, set->overlap));
        if (!looped && last && back < set->overlap)
            weight = fmax(weight, fall(back, set->overlap));
        return weight;
    }
    if ((!first || (looped && last)) && i < set->overlap)
        weight = rise(i, set->overlap);
    if ((!last || (looped && first)) && back < set->overlap)
        weight = fall(back, set->overlap);
    return weight;
}

/* Sets the weights, and divides them by their sum over the windows. Where that is 0 all are equal.
 */
static status weigh(struct windows *w, const struct window_settings *set, int frames)
{
    const size_t row = (size_t)w->frames;
    double *sum = calloc((size_t)frames, sizeof(*sum));
    int *count = calloc((size_t)frames, sizeof(*count));
    status st = ST_OK;

    w->weight = calloc((size_t)w->count * row, sizeof(*w->weight));
    if (sum == NULL || count == NULL || w->weight == NULL)
        TRY_OUT(
            fail(ST_MEMORY, "cannot allocate host memory for the weights of %d windows", w->count));
    for (int k = 0; k < w->count; k++)
        for (int i = 0; i < w->length[k]; i++) {
            const double weight = weight_of(w, set, frames, k, i);
            const int frame = indexes(w, k)[i];

            w->weight[(size_t)k * row + (size_t)i] = weight;
            sum[frame] += weight;
            count[frame]++;
        }
    for (int i = 0; i < frames; i++)
        assert(count[i] > 0);
    for (int k = 0; k < w->count; k++)
        for (int i = 0; i < w->length[k]; i++) {
            const int frame = indexes(w, k)[i];
            double *weight = &w->weight[(size_t)k * row + (size_t)i];

            *weight = sum[frame] > 0 ? *weight / sum[frame] : 1.0 / count[frame];
        }
out:
    free(sum);
    free(count);
    return st;
}

/* Frames that no window has get one, as windows of each 2nd frame may leave some at the end. */
static status complete(struct windows *w, const struct window_settings *set, int frames)
{
    for (int f = 0; f < frames; f++) {
        bool found = false;

        for (int k = 0; k < w->count && !found; k++)
            found = contains(w, k, f);
        if (!found)
            TRY(insert(w, w->count, set->frames,
                       f + set->frames <= frames ? f : frames - set->frames, 1, frames));
    }
    return ST_OK;
}

status windows_make(struct windows *w, const struct window_settings *set, int frames, int step)
{
    status st;

    assert(windows_divide(set, frames));
    *w = (struct windows){ .frames = set->frames };
    switch (set->kind) {
    case WINDOWS_OFF:
    case WINDOWS_SLIDING:
        TRY_OUT(sliding(w, set, frames));
        break;
    case WINDOWS_STATIC:
        TRY_OUT(fixed(w, set, frames));
        break;
    case WINDOWS_UNIFORM:
    case WINDOWS_LOOPED:
        TRY_OUT(uniform(w, set, frames, step));
        if (set->kind == WINDOWS_UNIFORM)
            TRY_OUT(unroll(w, set, frames));
        TRY_OUT(complete(w, set, frames));
        break;
    }
    TRY_OUT(weigh(w, set, frames));
out:
    if (st != ST_OK)
        windows_done(w);
    return st;
}
