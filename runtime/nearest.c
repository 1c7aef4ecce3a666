#include "runtime/nearest.h"

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#define WORD_MAX 64

/* Edits that make one word of the other. Words are short: two rows on the stack do. */
static int distance(const char *a, const char *b)
{
    int row[WORD_MAX + 1];
    const int n = (int)strlen(b);

    if (n > WORD_MAX)
        return WORD_MAX;
    for (int j = 0; j <= n; j++)
        row[j] = j;
    for (int i = 0; a[i] != 0; i++) {
        int diagonal = row[0];
        row[0] = i + 1;
        for (int j = 0; j < n; j++) {
            const int above = row[j + 1];
            int best = diagonal + (a[i] != b[j]);
            best = above + 1 < best ? above + 1 : best;
            best = row[j] + 1 < best ? row[j] + 1 : best;
            diagonal = above;
            row[j + 1] = best;
        }
    }
    return row[n];
}

const char *nearest_word(const char *word, const char *const *known, int count)
{
    const int length = (int)strlen(word);
    const int allowed = length / 3 > 2 ? length / 3 : 2;
    const char *nearest = NULL;
    int least = allowed + 1;

    if (length > WORD_MAX)
        return NULL;
    for (int i = 0; i < count; i++) {
        // The beginning of a word counts as near: argparse takes such abbreviations.
        const bool begins = length >= 3 && strncmp(word, known[i], (size_t)length) == 0;
        const int d = begins ? 1 : distance(word, known[i]);
        if (d < least && d < (int)strlen(known[i])) {
            least = d;
            nearest = known[i];
        }
    }
    return nearest;
}
