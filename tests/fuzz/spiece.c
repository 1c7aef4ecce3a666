/* A SentencePiece model, and prompts that it encodes. */
#include "model/text/tokenizer.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const prompts[] = { "", "Two cats, boxing!",
                                           "</s> \u00e9\u0301 \uff21\u2460 \U0001f600",
                                           "\u4e24\u53ea\u732b &amp; ab\u0300ab" };
    struct tokenizer *t = NULL;
    int ids[64], count = 0;

    if (fuzz_ok(tokenizer_open(&t, data, size, "fuzz"))) {
        for (size_t i = 0; i < COUNT(prompts); i++)
            fuzz_ok(tokenizer_encode(t, prompts[i], (int)COUNT(ids), ids, &count));
    }
    tokenizer_close(t);
    return 0;
}
