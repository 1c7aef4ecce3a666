/* nearest.h - "did you mean ...?": the known word that is nearest to one that is unknown. */
#ifndef RUNTIME_NEAREST_H
#define RUNTIME_NEAREST_H

/* The known word nearest to `word`, or NULL when none is near. */
const char *nearest_word(const char *word, const char *const *known, int count);

#endif
