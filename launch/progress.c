#include "launch/progress.h"

#include "runtime/clock.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define SLOW_STEP 3.0      // seconds of a step that gets its own line in a file
#define LINE_PART 0.05     // between the lines of faster steps: at least this part of the stage
#define SIGN_EVERY 60.0    // seconds until a line says that a step is not done yet
#define REWRITE_EVERY 0.05 // seconds between updates on a terminal
#define TICK_EVERY 1.0     // the same during a step

static double real_time(void *payload)
{
    return clock_seconds();
}

static int terminal_columns(int fd)
{
    struct winsize size;

    return ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_col > 20 ? size.ws_col : 80;
}

void progress_init(struct progress *p, FILE *out, bool enabled)
{
    const char *term = getenv("TERM");

    *p = (struct progress){ .out = enabled ? out : NULL, .now = real_time };
    if (!enabled)
        return;
    p->terminal = isatty(fileno(out)) && term != NULL && strcmp(term, "dumb") != 0;
    p->columns = terminal_columns(fileno(out));
}

void progress_redirect(struct progress *p, FILE *out, const char *prefix)
{
    progress_init(p, out, out != NULL);
    p->terminal = p->terminal && prefix[0] == 0;
    snprintf(p->prefix, sizeof(p->prefix), "%s", prefix);
}

const char *progress_time(char *buffer, double seconds)
{
    const long s = seconds < 0 ? 0 : seconds > 1e9 ? 1000000000 : (long)(seconds + 0.5);

    if (s >= 3600)
        snprintf(buffer, 24, "%ld:%02ld:%02ld", s / 3600, s / 60 % 60, s % 60);
    else
        snprintf(buffer, 24, "%ld:%02ld", s / 60, s % 60);
    return buffer;
}

/* Seconds per step; 0 before two steps are done. The first step, which includes loading and
 * warm-up, does not count. */
static double step_seconds(const struct progress *p)
{
    if (p->done <= p->first_end_done)
        return 0;
    return (p->last_end - p->first_end) / (double)(p->done - p->first_end_done);
}

/* The remaining time, from the time per step and the time since the last one. */
static double seconds_left(const struct progress *p, double now)
{
    return step_seconds(p) * (double)(p->total - p->done) - (now - p->last_end);
}

/* Writes a number with about three digits, never as 1.2e+03. */
static void number_text(char *text, size_t size, double x)
{
    snprintf(text, size, "%.*f", x < 10 ? 2 : x < 100 ? 1 : 0, x);
}

/* Writes "4.21 s/step" for slow steps, "12.3 steps/s" for fast ones, "812 MB/s" for bytes. */
static void rate_text(char *text, size_t size, const struct progress *p)
{
    const double each = step_seconds(p);
    char number[16];

    text[0] = 0;
    if (each <= 0)
        return;
    if (strcmp(p->unit, PROGRESS_BYTES) == 0) {
        number_text(number, sizeof(number), 1e-6 / each);
        snprintf(text, size, "  %s MB/s", number);
    } else if (each >= 0.5) {
        number_text(number, sizeof(number), each);
        snprintf(text, size, "  %s s/%s", number, p->unit);
    } else {
        number_text(number, sizeof(number), 1 / each);
        snprintf(text, size, "  %s %ss/s", number, p->unit);
    }
}

/* Writes "17/50", or "1.2/28.9 GB". */
static void count_text(char *text, size_t size, const struct progress *p)
{
    const bool gb = p->total >= 10000000000;
    const double scale = gb ? 1e-9 : 1e-6;

    if (strcmp(p->unit, PROGRESS_BYTES) != 0)
        snprintf(text, size, "%lld/%lld", (long long)p->done, (long long)p->total);
    else
        snprintf(text, size, "%.*f/%.*f %s", gb, scale * (double)p->done, gb,
                 scale * (double)p->total, gb ? "GB" : "MB");
}

/* Writes "17/50  4.21 s/step  2:19 left". */
static void state_text(char *text, size_t size, const struct progress *p, double now)
{
    char count[64], rate[64], time[24];

    count_text(count, sizeof(count), p);
    rate_text(rate, sizeof(rate), p);
    snprintf(text, size, "%s%s", count, rate);
    if (p->done < p->total && step_seconds(p) > 0)
        snprintf(text + strlen(text), size - strlen(text), "  %s left",
                 progress_time(time, seconds_left(p, now)));
}

/* Erases the line that is rewritten in place. */
static void close_line(struct progress *p)
{
    if (p->line_open)
        fputs("\r\033[K", p->out);
    p->line_open = false;
}

static void rewrite(struct progress *p, double now)
{
    char tail[128], bar[64], time[24];
    int width;

    if (p->total == 0) {
        fprintf(p->out, "\r%s ... %s\033[K", p->stage, progress_time(time, now - p->started));
    } else {
        state_text(tail, sizeof(tail), p, now);
        if (step_seconds(p) <= 0) // no estimate yet: the time so far
            snprintf(tail + strlen(tail), sizeof(tail) - strlen(tail), "  %s",
                     progress_time(time, now - p->started));
        width = p->columns - (int)strlen(p->stage) - (int)strlen(tail) - 7;
        width = width > 40 ? 40 : width;
        for (int i = 0; i < width; i++)
            bar[i] = (double)i * (double)p->total < (double)width * (double)p->done ? '#' : '-';
        bar[width > 0 ? width : 0] = 0;
        fprintf(p->out, "\r%s  [%s] %s\033[K", p->stage, bar, tail);
    }
    fflush(p->out);
    p->line_open = true;
    p->printed = now;
}

static void write_line(struct progress *p, double now)
{
    char text[128];

    state_text(text, sizeof(text), p, now);
    fprintf(p->out, "%s%s: %s\n", p->prefix, p->stage, text);
    fflush(p->out);
    p->printed = now;
}

/* Whether a step that has just ended gets a line in a file: the first one, which shows that it
 * works, the last one, and slow ones. */
static bool line_is_due(const struct progress *p, double now)
{
    const double part = LINE_PART * (now - p->started);
    const bool first = p->done == p->first_end_done && strcmp(p->unit, PROGRESS_BYTES) != 0;

    return first || p->done == p->total || step_seconds(p) >= SLOW_STEP ||
           now - p->printed >= (part > SLOW_STEP ? part : SLOW_STEP);
}

void progress_stage(struct progress *p, const char *name, int64_t first, int64_t total,
                    const char *unit)
{
    if (p->out == NULL)
        return;
    progress_end(p);
    snprintf(p->stage, sizeof(p->stage), "%s", name);
    snprintf(p->unit, sizeof(p->unit), "%s", unit != NULL ? unit : "");
    p->first = p->done = p->first_end_done = first;
    p->total = total;
    p->started = p->printed = p->last_end = p->now(p->payload);
    p->in_stage = true;
    if (p->terminal) {
        rewrite(p, p->started);
    } else {
        fprintf(p->out, "%s%s ...\n", p->prefix, p->stage);
        fflush(p->out);
    }
}

void progress_update(struct progress *p, int64_t done)
{
    double now;

    if (p->out == NULL || !p->in_stage || done == p->done)
        return;
    now = p->now(p->payload);
    if (p->done == p->first) {
        p->first_end = now;
        p->first_end_done = done;
    }
    p->last_end = now;
    p->done = done;
    p->total = p->total > 0 && done > p->total ? done : p->total;
    if (p->terminal) {
        if (done == p->total || now - p->printed >= REWRITE_EVERY)
            rewrite(p, now);
    } else if (p->total > 0 && line_is_due(p, now)) {
        write_line(p, now);
    }
}

void progress_total(struct progress *p, int64_t total)
{
    p->total = total;
}

void progress_tick(struct progress *p)
{
    double now, quiet;
    char time[24], count[64] = "...";

    if (p->out == NULL || !p->in_stage)
        return;
    now = p->now(p->payload);
    quiet = now - p->printed;
    if (p->terminal && quiet >= TICK_EVERY) {
        rewrite(p, now);
    } else if (!p->terminal && quiet >= SIGN_EVERY && now - p->last_end > 2 * step_seconds(p)) {
        if (p->total > 0)
            count_text(count, sizeof(count), p);
        fprintf(p->out, "%s%s: %s after %s\n", p->prefix, p->stage, count,
                progress_time(time, now - p->started));
        fflush(p->out);
        p->printed = now;
    }
}

void progress_end(struct progress *p)
{
    char time[24];
    double seconds;

    if (p->out == NULL || !p->in_stage)
        return;
    seconds = p->now(p->payload) - p->started;
    close_line(p);
    if (seconds < 60)
        fprintf(p->out, "%s%s: %.2f s\n", p->prefix, p->stage, seconds);
    else
        fprintf(p->out, "%s%s: %s\n", p->prefix, p->stage, progress_time(time, seconds));
    fflush(p->out);
    p->in_stage = false;
}

void progress_print(struct progress *p, const char *format, ...)
{
    va_list args;
    char *line = NULL;
    int length;

    if (p->out == NULL)
        return;
    va_start(args, format);
    length = vasprintf(&line, format, args);
    va_end(args);
    close_line(p);
    fprintf(p->out, "%s%s\n", p->prefix, length >= 0 ? line : format);
    if (length >= 0)
        free(line);
    if (p->terminal && p->in_stage)
        rewrite(p, p->now(p->payload));
    fflush(p->out);
}
