#include "kernels/ref/ref.h"

#define EACH 256 // elements at a time

/* out = x + a product, or with a change. */
struct merging {
    struct tensor up, down;
    const struct weight_change *change; // NULL: the product
    int64_t cols;
};

static status merge(struct tensor out, struct tensor x, int64_t first, const struct merging *m)
{
    const int64_t count = tensor_count(out);

    for (int64_t at = 0; at < count;) {
        const int64_t take = count - at < EACH ? count - at : EACH;
        double wide[EACH];
        float values[EACH];

        ref_load(wide, x, at, take);
        for (int64_t i = 0; i < take; i++)
            values[i] = (float)wide[i];
        if (m->change != NULL)
            merge_change(values, first + at, take, m->cols, m->change);
        else
            merge_product(values, first + at, take, m->cols, m->up.data, m->down.data,
                          m->up.dim[1]);
        for (int64_t i = 0; i < take; i++)
            wide[i] = values[i];
        ref_store(out, at, wide, take);
        at += take;
    }
    return ST_OK;
}

status ref_add_product(struct device *dev, struct tensor out, struct tensor x, int64_t first,
                       struct tensor up, struct tensor down)
{
    return merge(out, x, first, &(struct merging){ .up = up, .down = down, .cols = down.dim[1] });
}

status ref_add_change(struct device *dev, struct tensor out, struct tensor x, int64_t first,
                      int64_t cols, const struct weight_change *change)
{
    return merge(out, x, first, &(struct merging){ .change = change, .cols = cols });
}

status ref_add_squares(struct device *dev, struct tensor sums, struct tensor x, bool per_column,
                       bool add)
{
    const int64_t cols = x.dim[1];
    double wide[EACH];
    float *row;

    TRY(ref_scratch(dev, (double **)&row, cols));
    for (int64_t r = 0; r < x.dim[0]; r++) {
        for (int64_t c = 0; c < cols; c += EACH) {
            const int64_t n = cols - c < EACH ? cols - c : EACH;

            ref_load(wide, x, r * cols + c, n);
            for (int64_t i = 0; i < n; i++)
                row[c + i] = (float)wide[i];
        }
        merge_squares((double *)sums.data + (per_column ? 0 : r), row, 1, cols, per_column,
                      add || r > 0);
    }
    return ST_OK;
}
