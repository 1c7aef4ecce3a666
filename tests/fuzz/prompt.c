/* A prompt: its cleaning, and its token ids with the model of the tests. */
#include "model/text/tokenizer.h"
#include "runtime/readfile.h"
#include "tests/fuzz/fuzz.h"

#include <stdlib.h>
#include <string.h>

static struct tokenizer *open_model(void)
{
    struct tokenizer *t = NULL;
    char *bytes = NULL;
    size_t size = 0;

    if (readfile_bytes(GOLDEN "/spiece.model", (size_t)1 << 20, &bytes, &size) != ST_OK ||
        tokenizer_open(&t, bytes, size, GOLDEN) != ST_OK)
        exit(1);
    free(bytes);
    return t;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct tokenizer *t;
    char *text = fuzz_text(data, size), *clean = NULL, *twice = NULL;
    int ids[512], count = 0;

    if (t == NULL)
        t = open_model();
    if (fuzz_ok(text_clean(text, &clean)) && !fuzz_ok(text_clean(clean, &twice)) &&
        strstr(status_line(), "UTF-8") != NULL)
        __builtin_trap(); // what was cleaned is UTF-8; its entities may still be too deep
    if (fuzz_ok(tokenizer_encode(t, text, (int)COUNT(ids), ids, &count)) &&
        (count < 1 || count > (int)COUNT(ids)))
        __builtin_trap();
    free(twice);
    free(clean);
    free(text);
    return 0;
}
