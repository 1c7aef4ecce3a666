/* The tensor lists of the released models have the fingerprints of the real files
 * (DiffSynth-Studio, diffsynth/configs/model_configs.py). */
#include "model/pipeline/model.h"
#include "tests/check.h"

#include <string.h>

static const struct {
    const struct part *part;
    const char *variant;
    const char *fingerprint;
    int tensors;
    int64_t parameters;
} known[] = {
    { &part_dit, "t2v-1.3B", "9269f8db9040a9d860eaca435be61814", 825, 1418996800 },
    { &part_dit, "t2v-14B", "aafcfd9672c3a2456dc46e1cb6e52c70", 1095, 14288491584 },
    { &part_dit, "i2v-14B", "6bfcfb3b342cb286ce886889d519a77e", 1303, 16394878784 },
    { &part_dit, "flf2v-14B", "3ef3b1f8e1dab83d5b71fd7b617f859f", 1304, 16395536704 },
    { &part_dit, "inp-1.3B", "6d6ccde6845b95ad9114ab993d917893", 983, 1564428608 },
    { &part_dit, "control-1.3B", "349723183fc063b2bfc10bb2835cf677", 983, 1564502336 },
    { &part_dit, "control-14B", "efa44cddf936c70abd0ea28b6cbe946c", 1303, 16395124544 },
    { &part_dit, "control-ref-1.3B", "70ddad9d3a133785da5ea371aae09504", 985, 1564602176 },
    { &part_dit, "control-ref-14B", "26bde73488a92e64cc20b0a7485b9e5b", 1305, 16395457344 },
    { &part_dit, "camera-1.3B", "ac6a5aa74f4a0aab6f64eb9a72f19901", 989, 1616313152 },
    { &part_dit, "camera-14B", "b61c605c2adbd23124d152ed28e049ae", 1309, 16898128704 },
    { &part_dit, "control-A14B", "2267d489f0ceb9f21836532952852ee5", 1097, 14289561664 },
    { &part_dit_low, "camera-A14B", "47dbeab5e560db3180adf51dc0232fb1", 1101, 14792233024 },
    { &part_dit, "vace-1.3B", "a61453409b67cd3246cf0c3bebad47ba", 1264, 2153972032 },
    { &part_dit, "vace-14B", "7a513e1f257a861512b1afd387a8ecd9", 1331, 17337592896 },
    { &part_dit, "t2v-A14B", "aafcfd9672c3a2456dc46e1cb6e52c70", 1095, 14288491584 },
    { &part_dit_low, "i2v-A14B", "5b013604280dd715f8457c6ed6d6a626", 1095, 14288901184 },
    { &part_dit, "ti2v-5B", "1f5ab7703c6fc803fdded85ff040c316", 825, 4999787712 },
    { &part_dit, "s2v-14B", "966cffdcc52f9c46c391768b27637614", 1260, 16295755609 },
    { &part_dit, "animate-14B", "31fa352acb8a1b1d33cd8764273d80a2", 1441, 17274817108 },
    { &part_motion, "speed-1.3B", "dbd5ec76bbf977983f972c151d545389", 6, 16920576 },
    { &part_vae, "wan2.1", "ccc42284ea13e1ad04693284c7a09be6", 194, 126892531 },
    { &part_vae, "wan2.2", "e1de6c02cdac79f8b739f4d3698cd216", 196, 704688668 },
    { &part_wav2vec2, "wav2vec2-large", "06be60f3a4526586d8431cd038a71486", 424, 315472545 },
    { &part_t5, "umt5-xxl", "9c8818c2cbea55eca56c7b447df170da", 242, 5680910336 },
};

static void check_list(size_t k)
{
    const void *config = part_variant(known[k].part, known[k].variant);
    char hex[FINGERPRINT_BYTES] = "";
    struct tensor_list list = { 0 };
    struct inventory all = { 0 };

    CHECK(config != NULL, "no variant %s", known[k].variant);
    if (config == NULL)
        return;
    known[k].part->tensors(&list, config, NULL);
    CHECK(inventory_expand(&all, &list) == ST_OK, "%s", status_line());
    CHECK(inventory_fingerprint(&all, hex) == ST_OK, "%s", status_line());
    CHECK(strcmp(hex, known[k].fingerprint) == 0, "%s: %s", known[k].variant, hex);
    CHECK(all.count == known[k].tensors, "%s: %d tensors", known[k].variant, all.count);
    CHECK(inventory_parameters(&all) == known[k].parameters, "%s: %lld parameters",
          known[k].variant, (long long)inventory_parameters(&all));
    inventory_done(&all);
    tensors_done(&list);
}

int main(void)
{
    for (size_t k = 0; k < COUNT(known); k++)
        check_list(k);
    for (int i = 0; preset_at(i) != NULL; i++) { // every preset has its parts
        const struct model m = preset_model(preset_at(i));

        CHECK(model_check(&m, preset_at(i)->name) == ST_OK, "%s", status_line());
    }
    return check_end("spec");
}
