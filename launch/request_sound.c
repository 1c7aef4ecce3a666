/* The sound of a request: read and identified on rank 0 when the request is completed, and again
 * when it is encoded. */
#include "launch/request_internal.h"
#include "launch/video/media_sound.h"
#include "model/audio/wav2vec2.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* The input that is given; INPUT_COUNT: none. */
static int given_sound(const struct request *r)
{
    int i = 0;

    while (i < INPUT_COUNT && ((TASK_SOUNDS >> i & 1) == 0 || r->input[i] == NULL))
        i++;
    return i;
}

static status read_sound(struct sound *s, char *text, size_t size, const struct request *r,
                         int input)
{
    char line[512], digest[SOUND_DIGEST_BYTES];
    const status st = media_sound(s, r->input[input], WAV2VEC2_RATE);

    if (st != ST_OK) {
        snprintf(line, sizeof(line), "%s", status_line());
        return fail(st, "--%s %s", task_input_names[input], line);
    }
    sound_digest(s, digest);
    snprintf(text, size, "%" PRId64 "@%.9g:%s", s->count, s->seconds, digest);
    return ST_OK;
}

/* The sound must be the one of r->media if that has one. */
static status check_sound(const struct request *r, int input, const char *text)
{
    size_t length = 0;
    const char *known = request_find_media(r, input, &length);

    if (known == NULL || (length == strlen(text) && strncmp(known, text, length) == 0))
        return ST_OK;
    return fail(ST_USAGE,
                "--%s %s: the sound is not the one of this run any more; restore it, or start a "
                "new run",
                task_input_names[input], r->input[input]);
}

status request_read_sound(struct request *r)
{
    const int input = given_sound(r);
    struct sound s = { 0 };
    char text[80];
    size_t length;
    status st;

    if (input == INPUT_COUNT)
        return ST_OK;
    st = read_sound(&s, text, sizeof(text), r, input);
    sound_done(&s);
    if (st == ST_IO && request_find_media(r, input, &length) != NULL)
        return ST_OK; // of a run that goes on: its run file has what was made of the sound
    TRY(st);
    TRY(check_sound(r, input, text));
    return request_find_media(r, input, &length) != NULL ? ST_OK
                                                         : request_add_media(r, input, text);
}

void request_sound_size(struct request *r)
{
    const int input = given_sound(r);
    size_t length = 0;
    const char *value = input < INPUT_COUNT ? request_find_media(r, input, &length) : NULL;

    r->sound = (struct sound_input){ 0 };
    if (value != NULL &&
        (sscanf(value, "%" SCNd64 "@%lf:", &r->sound.samples, &r->sound.seconds) != 2 ||
         r->sound.samples < 1 ||
         r->sound.samples > (int64_t)(SOUND_SECONDS_MAX + 1) * WAV2VEC2_RATE ||
         !(r->sound.seconds > 0 && r->sound.seconds <= SOUND_SECONDS_MAX)))
        r->sound = (struct sound_input){ 0 };
}

/* The sound_input's read; the payload is the request. */
static status read_samples(void *payload, float **samples, int64_t *count)
{
    const struct request *r = payload;
    const int input = given_sound(r);
    struct sound s = { 0 };
    char text[80];
    status st;

    TRY_OUT(read_sound(&s, text, sizeof(text), r, input));
    TRY_OUT(check_sound(r, input, text));
    *samples = s.samples;
    *count = s.count;
    s.samples = NULL;
out:
    sound_done(&s);
    return st;
}

void request_open_sound(struct request *r)
{
    r->sound.read = read_samples;
    r->sound.payload = r;
}
