/* segments.h - the sequence of tokens as segments, each with rotary positions and a time of its
 * own, and the rows of them that one rank has.
 *
 *     [ before | latent, known frames | latent | after ]       segments of the whole sequence
 *        [ rank 0 ]  [ rank 1 ]  [ rank 2 ]  [ rank 3 ]        split evenly, uneven by one
 *
 * The latent's tokens are one or two segments: two when its first frames are known (time 0).
 * Features add others before and after (a reference image, motion frames). */
#ifndef MODEL_TRANSFORMER_SEGMENTS_H
#define MODEL_TRANSFORMER_SEGMENTS_H

#include "kernels/ops.h"

#define SEGMENTS_MAX 8

enum segment_time { TIME_STEP, TIME_ZERO, SEGMENT_TIMES };

struct segment {
    int64_t tokens;
    struct token_grid grid; // rotary positions; first: the position of the segment's first token
    enum segment_time time;
    bool latent; // tokens of the latent, which the head predicts
};

struct segments {
    int count;
    struct segment segment[SEGMENTS_MAX];
};

/* The latent's tokens: f frames of h x w, the first `known` of which have time 0. */
void segments_of_latent(struct segments *s, int64_t f, int64_t h, int64_t w, int64_t known);

void segments_before(struct segments *s, struct segment segment);
void segments_after(struct segments *s, struct segment segment);
int64_t segments_tokens(const struct segments *s); // in all

/* Rows [first, first + count) of a rank that belong to one segment; grid.first is theirs. */
struct span {
    int64_t first, count;
    struct token_grid grid;
    enum segment_time time;
    bool latent;
};

struct spans {
    int count;
    struct span span[SEGMENTS_MAX];
    int64_t latent_first; // the first of the latent's tokens that the rank has
    int64_t latent_rows;  // how many it has
    int64_t latent_row;   // in which row the first is
};

/* The rows of part `part` of `parts`. */
void spans_of(struct spans *out, const struct segments *s, int parts, int part);

#endif
