/* The tensor lists of the released models hash to the fingerprints recorded of the real files
 * (DiffSynth-Studio, diffsynth/configs/model_configs.py). */
#include "model/checkpoint/checkpoint_internal.h"
#include "tests/check.h"

#include <string.h>

static const struct {
    const char *preset;
    enum part part;
    const char *fingerprint;
    int tensors;
    int64_t parameters;
} known[] = {
    { "t2v-1.3B", PART_DIT, "9269f8db9040a9d860eaca435be61814", 825, 1418996800 },
    { "t2v-14B", PART_DIT, "aafcfd9672c3a2456dc46e1cb6e52c70", 1095, 14288491584 },
    { "i2v-14B", PART_DIT, "6bfcfb3b342cb286ce886889d519a77e", 1303, 16394878784 },
    { "flf2v-14B", PART_DIT, "3ef3b1f8e1dab83d5b71fd7b617f859f", 1304, 16395536704 },
    { "vace-1.3B", PART_DIT, "a61453409b67cd3246cf0c3bebad47ba", 1264, 2153972032 },
    { "vace-14B", PART_DIT, "7a513e1f257a861512b1afd387a8ecd9", 1331, 17337592896 },
    { "t2v-A14B", PART_DIT, "aafcfd9672c3a2456dc46e1cb6e52c70", 1095, 14288491584 },
    { "i2v-A14B", PART_DIT, "5b013604280dd715f8457c6ed6d6a626", 1095, 14288901184 },
    { "ti2v-5B", PART_DIT, "1f5ab7703c6fc803fdded85ff040c316", 825, 4999787712 },
    { "s2v-14B", PART_DIT, "966cffdcc52f9c46c391768b27637614", 1260, 16295755609 },
    { "animate-14B", PART_DIT, "31fa352acb8a1b1d33cd8764273d80a2", 1441, 17274817108 },
    { "t2v-1.3B", PART_VAE, "ccc42284ea13e1ad04693284c7a09be6", 194, 126892531 },
    { "ti2v-5B", PART_VAE, "e1de6c02cdac79f8b739f4d3698cd216", 196, 704688668 },
    { "t2v-14B", PART_T5, "9c8818c2cbea55eca56c7b447df170da", 242, 5680910336 },
};

static void check_md5(void)
{
    char hex[FINGERPRINT_BYTES];

    // the test suite of RFC 1321: one block, the longest that one block holds, two blocks
    md5_hex("abc", 3, hex);
    CHECK(strcmp(hex, "900150983cd24fb0d6963f7d28e17f72") == 0, "%s", hex);
    md5_hex("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789", 62, hex);
    CHECK(strcmp(hex, "d174ab98d277d9f5a5611c2c9f419d9f") == 0, "%s", hex);
    md5_hex("", 0, hex);
    CHECK(strcmp(hex, "d41d8cd98f00b204e9800998ecf8427e") == 0, "%s", hex);
}

int main(void)
{
    check_md5();
    for (size_t i = 0; i < COUNT(known); i++) {
        const struct preset *p = preset_find(known[i].preset);
        char hex[FINGERPRINT_BYTES] = "";
        struct spec s = { 0 };

        CHECK(p != NULL, "no preset %s", known[i].preset);
        if (p == NULL)
            continue;
        CHECK(spec_part(&s, &p->config, known[i].part) == ST_OK, "%s", status_line());
        CHECK(spec_fingerprint(&s, hex) == ST_OK, "%s", status_line());
        CHECK(strcmp(hex, known[i].fingerprint) == 0, "%s part %d: %s", p->name, known[i].part,
              hex);
        CHECK(s.count == known[i].tensors, "%s part %d: %d tensors", p->name, known[i].part,
              s.count);
        CHECK(spec_parameters(&s) == known[i].parameters, "%s part %d: %lld parameters", p->name,
              known[i].part, (long long)spec_parameters(&s));
        spec_done(&s);
    }
    return check_end("spec");
}
