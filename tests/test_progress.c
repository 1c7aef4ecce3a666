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

    CHECK(strncmp(text, "sampling ...\nsampling: 1/50  9 s/step  7:21 left\n", 49) == 0, "%s",
          text);
    CHECK(strstr(text, "sampling: 4/50  4 s/step  3:04 left\n") != NULL, "%s", text);
    CHECK(strstr(text, "sampling: 50/50  4 s/step\nsampling: 3:25\nwriting ...\nwriting: 1.50 s\n"
                       "saved a.mp4\n") != NULL,
          "%s", text);
    CHECK(count(text, "sampling: ") < 20 && strchr(text, '\r') == NULL, "%s", text);
    free(text);
}

static void test_terminal(void)
{
    char *text = sampling(true);

    CHECK(strstr(text, "\rsampling  [") != NULL, "%s", text);
    CHECK(strstr(text, "] 26/50  4 s/step  1:36 left\033[K") != NULL, "%s", text);
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
    CHECK(count(text, "\n") == 4, "%s", text);
    CHECK(strstr(text, "sampling: 41/50  10 steps/s  0:01 left\n") != NULL, "%s", text);
    CHECK(strstr(text, "sampling: 50/50  10 steps/s\n") != NULL, "%s", text);
    free(text);

    progress_init(&p, stdout, false);
    progress_stage(&p, "nobody", 0, 3, "step");
    progress_update(&p, 1);
    progress_print(&p, "should see this");
    progress_end(&p);
    CHECK(p.out == NULL, "silent");
}

int main(void)
{
    char buffer[24];

    test_file();
    test_terminal();
    test_resumed_and_silent();
    CHECK(strcmp(progress_time(buffer, 3723), "1:02:03") == 0, "%s", buffer);
    CHECK(strcmp(progress_time(buffer, 59.6), "1:00") == 0, "%s", buffer);
    return check_end("progress");
}
