/* Progress output to a log file and to a terminal, with a simulated clock. */
#include "launch/progress.h"
#include "tests/check.h"

#include <stdlib.h>
#include <string.h>

static double seconds;

static double clock_now(void *payload)
{
    return seconds;
}

static struct progress begin(FILE *out, bool terminal)
{
    struct progress p;

    progress_init(&p, out, true);
    CHECK(!p.terminal, "a memory stream is no terminal");
    p.terminal = terminal;
    p.columns = 60;
    p.now = clock_now;
    seconds = 100;
    return p;
}

/* 50 steps of 4 s, the first one of 9. */
static char *sampling(bool terminal)
{
    char *text = NULL;
    size_t bytes = 0;
    FILE *out = open_memstream(&text, &bytes);
    struct progress p = begin(out, terminal);

    progress_stage(&p, "sampling", 0, 50, "step");
    seconds += 5;
    for (int i = 1; i <= 50; i++) {
        seconds += 4;
        progress_update(&p, i);
    }
    progress_stage(&p, "writing", 0, 0, NULL);
    seconds += 1.5;
    progress_end(&p);
    progress_end(&p); // a second call has no effect
    progress_print(&p, "saved %s", "a.mp4");
    fclose(out);
    return text;
}

static int count(const char *text, const char *word)
{
    int n = 0;

    for (; (text = strstr(text, word)) != NULL; text += strlen(word))
        n++;
    return n;
}

static void test_file(void)
{
    char *text = sampling(false);

    // one step tells nothing about the others: no rate, no remaining time
    CHECK(strncmp(text, "sampling ...\nsampling: 1/50\nsampling: 2/50  4.00 s/step  3:12 left\n",
                  62) == 0,
          "%s", text);
    CHECK(strstr(text, "sampling: 50/50  4.00 s/step\nsampling: 3:25\nwriting ...\n"
                       "writing: 1.50 s\nsaved a.mp4\n") != NULL,
          "%s", text);
    CHECK(count(text, "sampling: ") == 51 && strchr(text, '\r') == NULL, "each step: %s", text);
    free(text);
}

static void test_terminal(void)
{
    char *text = sampling(true);

    CHECK(strstr(text, "\rsampling  [") != NULL, "%s", text);
    CHECK(strstr(text, "] 26/50  4.00 s/step  1:36 left\033[K") != NULL, "%s", text);
    CHECK(strstr(text, "\r\033[Ksampling: 3:25\n") != NULL, "%s", text);
    for (const char *line = text; (line = strchr(line, '\r')) != NULL; line++)
        CHECK(strcspn(line + 1, "\033\n") < 60, "too wide: %.80s", line);
    free(text);
}

static void test_resumed_and_silent(void)
{
    char *text = NULL;
    size_t bytes = 0;
    FILE *out = open_memstream(&text, &bytes);
    struct progress p = begin(out, false);

    progress_stage(&p, "sampling", 40, 50, "step");
    for (int i = 41; i <= 50; i++) {
        seconds += 0.1;
        progress_update(&p, i - 1); // no change, no line
        progress_update(&p, i);
        progress_update(&p, i);
    }
    progress_end(&p);
    fclose(out);
    CHECK(strcmp(
              text,
              "sampling ...\nsampling: 41/50\nsampling: 50/50  10.0 steps/s\nsampling: 1.00 s\n") ==
              0,
          "%s", text);
    free(text);

    progress_init(&p, stdout, false);
    progress_stage(&p, "nobody", 0, 3, "step");
    progress_update(&p, 1);
    progress_print(&p, "should see this");
    progress_end(&p);
    CHECK(p.out == NULL, "silent");
}

/* Fast steps in a long stage: a line every few seconds, later fewer. */
static void test_fast_steps(void)
{
    char *text = NULL;
    size_t bytes = 0;
    FILE *out = open_memstream(&text, &bytes);
    struct progress p = begin(out, false);

    progress_stage(&p, "decoding", 0, 10000, "chunk");
    for (int i = 1; i <= 9999; i++) {
        seconds += 0.36;
        progress_update(&p, i);
    }
    seconds += 4; // a slow last step
    progress_update(&p, 10000);
    progress_end(&p);
    fclose(out);
    CHECK(strstr(text, "decoding: 10/10000  2.78 chunks/s  59:56 left\n") != NULL, "%.400s", text);
    CHECK(count(text, "\n") > 80 && count(text, "\n") < 120, "%d lines in an hour",
          count(text, "\n"));
    CHECK(strstr(text, "decoding: 1:00:04\n") != NULL, "%.400s", text);
    CHECK(strstr(text, "e+") == NULL, "%s", text);
    free(text);
}

/* Bytes have no exponents either, and correct their total. */
static void test_bytes(bool large)
{
    char *text = NULL;
    size_t bytes = 0;
    FILE *out = open_memstream(&text, &bytes);
    struct progress p = begin(out, false);
    const int64_t part = large ? 7000000000 : 70000000;

    progress_stage(&p, "loading", 0, 4 * part, PROGRESS_BYTES);
    for (int i = 1; i <= 5; i++) {
        seconds += 3.5;
        progress_update(&p, i * part);
    }
    progress_end(&p);
    fclose(out);
    if (large)
        CHECK(strcmp(text, "loading ...\nloading: 7.0/28.0 GB\n"
                           "loading: 14.0/28.0 GB  2000 MB/s  0:07 left\n"
                           "loading: 21.0/28.0 GB  2000 MB/s  0:04 left\n"
                           "loading: 28.0/28.0 GB  2000 MB/s\nloading: 35.0/35.0 GB  2000 MB/s\n"
                           "loading: 17.50 s\n") == 0,
              "%s", text);
    else
        CHECK(strstr(text, "loading: 140/280 MB  20.0 MB/s  0:07 left\n") != NULL, "%s", text);
    free(text);
}

/* A step of minutes shows that time passes. */
static void test_long_step(bool terminal)
{
    char *text = NULL;
    size_t bytes = 0;
    FILE *out = open_memstream(&text, &bytes);
    struct progress p = begin(out, terminal);

    progress_stage(&p, "sampling", 0, 4, "step");
    for (int i = 1; i <= 300; i++) {
        seconds += 1;
        progress_tick(&p);
        if (i % 100 == 0)
            progress_update(&p, i / 100);
    }
    fclose(out);
    if (terminal) {
        CHECK(strstr(text, "] 0/4  0:59\033[K\r") != NULL, "%.400s", text);
        CHECK(strstr(text, "] 2/4  100 s/step  3:19 left") != NULL, "%.400s", text);
        CHECK(strstr(text, "] 2/4  100 s/step  2:30 left") != NULL, "counts down: %.400s", text);
    } else {
        CHECK(strcmp(text, "sampling ...\nsampling: 0/4 after 1:00\nsampling: 1/4\n"
                           "sampling: 1/4 after 2:40\nsampling: 2/4  100 s/step  3:20 left\n"
                           "sampling: 3/4  100 s/step  1:40 left\n") == 0,
              "%s", text);
    }
    free(text);
}

int main(void)
{
    char buffer[24];

    test_file();
    test_terminal();
    test_resumed_and_silent();
    test_fast_steps();
    test_bytes(false);
    test_bytes(true);
    test_long_step(false);
    test_long_step(true);
    CHECK(strcmp(progress_time(buffer, 3723), "1:02:03") == 0, "%s", buffer);
    CHECK(strcmp(progress_time(buffer, 59.6), "1:00") == 0, "%s", buffer);
    return check_end("progress");
}
