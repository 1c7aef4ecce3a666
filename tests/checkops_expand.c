/* Quantized weights: the values of every form, to the bit. */
#include "runtime/half.h"
#include "tests/checkops.h"

/* Random bytes of a form, without NaN. */
static struct tensor form_bytes(struct check *c, const struct stored_form *f)
{
    const struct tensor t = check_make(DT_U8, 0, DIMS((int64_t)stored_bytes(f)));
    const struct tensor scales = check_normal(c, DT_F32, 0, 1, 0, DIMS(f->scale.count + 1));
    uint8_t *bytes = t.data, *to = bytes + stored_scales_at(f);
    const size_t size = dtype_size(f->scale.dtype);
    int64_t values;
    size_t unit;

    stored_unit(f, &values, &unit);
    for (size_t i = 0; i < stored_number_bytes(f); i++) {
        bytes[i] = (uint8_t)((uint32_t)(i + c->seed) * 2654435761u >> 13);
        if ((bytes[i] & 0x7c) == 0x7c && f->dtype != DT_I8) // of fp8, a NaN or an infinity
            bytes[i] ^= 0x40;
    }
    if (f->block != NULL)
        blocks_random(f->block, c->seed, 0.1f, 0, f->count / values, bytes);
    for (int64_t i = 0; i < f->scale.count; i++) {
        const float v = ((const float *)scales.data)[i];
        const uint16_t half = f->scale.dtype == DT_F16 ? f16_from_f32(v) : bf16_from_f32(v);

        if (size == 1) // e8m0 around 1, e4m3
            to[i] = (uint8_t)(f->scale.dtype == DT_F8_E8M0 ? 120 + i % 13 : i * 37 % 126);
        else
            memcpy(to + (size_t)i * size, size == 2 ? (const void *)&half : (const void *)&v, size);
    }
    return t;
}

#define SCALED(dt, of, n, r, cols, per, tile, by)                                                  \
    .dtype = dt, .scale = { of, n, r, cols, per, tile, by, false }

void check_expand(struct check *c)
{
    static const char *const blocks[] = { "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL",
                                          "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS" };
    static const struct {
        const char *name;
        struct stored_form form;
    } others[] = {
        { "e4m3", { .dtype = DT_F8_E4M3, .count = 9000, .row = 90 } },
        { "e5m2", { .dtype = DT_F8_E5M2, .count = 9001, .row = 9001 } },
        { "f16", { .dtype = DT_F16, .count = 5000, .row = 50 } },
        { "e4m3, a scale",
          { .count = 9003, .row = 3, SCALED(DT_F8_E4M3, DT_F32, 1, 3001, 3, 1, false, 1) } },
        { "e5m2, of rows",
          { .count = 64 * 136, .row = 136, SCALED(DT_F8_E5M2, DT_BF16, 64, 1, 136, 1, false, 1) } },
        { "e4m3, of rows",
          { .count = 77 * 131, .row = 131, SCALED(DT_F8_E4M3, DT_F16, 77, 1, 131, 1, false, 1) } },
        { "i8, of rows",
          { .count = 200 * 72, .row = 72, SCALED(DT_I8, DT_F32, 200, 1, 72, 1, false, 1) } },
        { "i8, of groups",
          { .count = 64 * 96, .row = 96, SCALED(DT_I8, DT_F32, 256, 1, 24, 4, false, 1) } },
        { "i8, of squares",
          { .count = 200 * 300, .row = 300, SCALED(DT_I8, DT_F32, 6, 128, 128, 3, false, 1) } },
        { "mxfp8",
          { .count = 130 * 96,
            .row = 96,
            SCALED(DT_F8_E4M3, DT_F8_E8M0, 1024, 1, 32, 3, true, 1) } },
        { "nvfp4",
          { .count = 130 * 96,
            .row = 96,
            SCALED(DT_U8, DT_F8_E4M3, 2048, 1, 16, 6, true, 0.037f) } },
        { "nvfp4, divided",
          { .count = 130 * 96,
            .row = 96,
            .nibbles = NIBBLES_E2M1,
            .dtype = DT_U8,
            .scale = { DT_F8_E4M3, 2048, 1, 16, 6, true, 37.3f, true } } },
        { "mxfp4",
          { .count = 130 * 96,
            .row = 96,
            .nibbles = NIBBLES_E2M1,
            SCALED(DT_U8, DT_F8_E8M0, 1024, 1, 32, 3, true, 1) } },
    };

    for (size_t i = 0; i < COUNT(blocks) + COUNT(others); i++) {
        struct stored_form f = { .count = 96 * 256, .row = 256 };
        const char *name = i < COUNT(blocks) ? blocks[i] : others[i - COUNT(blocks)].name;

        if (i < COUNT(blocks))
            f.block = ggml_type_named(name);
        else
            f = others[i - COUNT(blocks)].form;
        for (int k = 0; k < 4; k++) {
            const enum dtype dt = k % 2 == 0 ? DT_BF16 : DT_F32;
            const int64_t first = k < 2 ? 0 : STORED_PASS;
            const int64_t n = k < 2 ? f.count : (f.count - first) / 2;

            if (!check_begin(c, expand, "%s, %lld from %lld, %s", name, (long long)n,
                             (long long)first, dtype_name(dt)))
                continue;
            const struct tensor stored = form_bytes(c, &f);
            const struct tensor want = check_output(dt, 0, DIMS(n));
            const struct tensor got = check_output(dt, 0, DIMS(n));

            check_status(c, op_expand(&c->ref, want, &f, stored.data, first));
            check_run(c, op_expand(&c->got, got, &f, stored.data, first));
            check_same(c, got, want);
            check_end_case(c);
        }
    }
}
