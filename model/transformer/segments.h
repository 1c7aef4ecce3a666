/* segments.h - divides the sequence of tokens into segments, each with its rotary positions and its
 * time, and gives the rows of one rank as spans of these segments.
 *
 *     [ prepended | latent, known frames | latent | appended ]   segments of the whole sequence
 *     [   rank 0   |   rank 1   |   rank 2   |    rank 3     ]   sizes differ by at most 1
 *
 * The latent's tokens are one or two segments: two if its first frames are known (time 0) and the
 * others are not. Features add segments before and after them (a reference image, motion frames).
 * All functions are local. */
#ifndef MODEL_TRANSFORMER_SEGMENTS_H
#define MODEL_TRANSFORMER_SEGMENTS_H

#include "kernels/ops.h"

#define SEGMENTS_MAX 8

enum segment_time { TIME_STEP, TIME_ZERO, SEGMENT_TIMES }; // the step's time, or 0

/* Rotary positions of an axis with n entries: n equally spaced ones from `from` to `to`, of which
 * the fraction is dropped. Both ends have the same sign. */
struct segment_axis {
    int64_t from, to;
};

struct segment {
    int64_t tokens;
    struct token_grid grid; // grid.first: index of its first token in the grid
    bool placed;            // rotary positions are those of `axis`; else the indices in the grid
    struct segment_axis axis[3]; // f, h, w
    enum segment_time time;
    bool latent; // tokens of the latent, for which the head computes the velocity
};

struct segments {
    int count;
    struct segment segment[SEGMENTS_MAX];
};

/* Sets the segments of a latent of f frames of h x w tokens; the first `known` are known. */
void segments_of_latent(struct segments *s, int64_t f, int64_t h, int64_t w, int64_t known);

/* Add a segment of other tokens at the start or at the end of the sequence. */
void segments_prepend(struct segments *s, struct segment segment);
void segments_append(struct segments *s, struct segment segment);

int64_t segments_tokens(const struct segments *s); // number of tokens of all segments

/* Rows [first, first + count) of a rank, which belong to one segment. grid.first is the index of
 * row `first` in the segment's grid. */
struct span {
    int64_t first, count;
    struct token_grid grid;
    enum segment_time time;
    bool latent;
    int segment; // its index
};

struct spans {
    int count;
    struct span span[SEGMENTS_MAX];
    int64_t latent_first; // index in the latent of the first latent token that the rank has
    int64_t latent_rows;  // number of latent tokens that the rank has
    int64_t latent_row;   // the rank's row of the first of them
};

/* The spans of rank `part` of the `parts` ranks that share the sequence. */
void spans_of(struct spans *out, const struct segments *s, int parts, int part);

#endif
