#include "launch/progress.h"

#include "runtime/clock.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define LINE_EVERY 10.0    // seconds between lines in a file
#define REWRITE_EVERY 0.05 // seconds between updates on a terminal

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

const char *progress_time(char *buffer, double seconds)
{
    const long s = seconds < 0 ? 0 : seconds > 1e9 ? 1000000000 : (long)(seconds + 0.5);

    if (s >= 3600)
        snprintf(buffer, 24, "%ld:%02ld:%02ld", s / 3600, s / 60 % 60, s % 60);
    else
        snprintf(buffer, 24, "%ld:%02ld", s / 60, s % 60);
    return buffer;
}

/* Seconds per step. The first step, which includes loading and warm-up, counts only while it is the
 * only one. */
static double step_seconds(const struct progress *p, double now)
{
    const int64_t steps = p->done - p->first;

    if (steps <= 0)
        return 0;
    if (p->done > p->first_end_done)
        return (now - p->first_end) / (double)(p->done - p->first_end_done);
    return (now - p->started) / (double)steps;
}

/* Writes "4.21 s/step" for slow steps, "12.3 frames/s" for fast ones. `each`: seconds per step. */
static void rate_text(char *text, size_t size, const struct progress *p, double each)
{
    if (each <= 0)
        text[0] = 0;
    else if (each >= 0.5)
        snprintf(text, size, "  %.3g s/%s", each, p->unit);
    else
        snprintf(text, size, "  %.3g %s%s/s", 1 / each, p->unit, strcmp(p->unit, "MB") ? "s" : "");
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
    const double each = step_seconds(p, now), left = each * (double)(p->total - p->done);
    char rate[48], time[24], tail[128], bar[64];
    int width;

    if (p->total == 0) {
        fprintf(p->out, "\r%s ...\033[K", p->stage);
    } else {
        rate_text(rate, sizeof(rate), p, each);
        snprintf(tail, sizeof(tail), " %lld/%lld%s", (long long)p->done, (long long)p->total, rate);
        if (each > 0)
            snprintf(tail + strlen(tail), sizeof(tail) - strlen(tail), "  %s left",
                     progress_time(time, left));
        width = p->columns - (int)strlen(p->stage) - (int)strlen(tail) - 6;
        width = width > 40 ? 40 : width;
        for (int i = 0; i < width; i++)
            bar[i] = i * p->total < width * p->done ? '#' : '-';
        bar[width > 0 ? width : 0] = 0;
        fprintf(p->out, "\r%s  [%s]%s\033[K", p->stage, bar, tail);
    }
    fflush(p->out);
    p->line_open = true;
}

static void write_line(struct progress *p, double now)
{
    const double each = step_seconds(p, now);
    char rate[48], time[24];

    rate_text(rate, sizeof(rate), p, each);
    fprintf(p->out, "%s: %lld/%lld%s", p->stage, (long long)p->done, (long long)p->total, rate);
    if (each > 0 && p->done < p->total)
        fprintf(p->out, "  %s left", progress_time(time, each * (double)(p->total - p->done)));
    fputc('\n', p->out);
    fflush(p->out);
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
    p->started = p->printed = p->now(p->payload);
    p->in_stage = true;
    if (p->terminal) {
        rewrite(p, p->started);
    } else {
        fprintf(p->out, "%s ...\n", p->stage);
        fflush(p->out);
    }
}

void progress_update(struct progress *p, int64_t done)
{
    double now;

    if (p->out == NULL || !p->in_stage || done == p->done)
        return;
    now = p->now(p->payload);
    if (p->done == p->first && done > p->first) {
        p->first_end = now;
        p->first_end_done = done;
    }
    const bool first = p->done == p->first;
    p->done = done;
    if (p->terminal) {
        if (first || done == p->total || now - p->printed >= REWRITE_EVERY) {
            rewrite(p, now);
            p->printed = now;
        }
    } else if (p->total > 0 && (first || done == p->total || now - p->printed >= LINE_EVERY)) {
        write_line(p, now);
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
        fprintf(p->out, "%s: %.2f s\n", p->stage, seconds);
    else
        fprintf(p->out, "%s: %s\n", p->stage, progress_time(time, seconds));
    fflush(p->out);
    p->in_stage = false;
}

void progress_print(struct progress *p, const char *format, ...)
{
    va_list args;

    if (p->out == NULL)
        return;
    close_line(p);
    va_start(args, format);
    vfprintf(p->out, format, args);
    va_end(args);
    fputc('\n', p->out);
    if (p->terminal && p->in_stage)
        rewrite(p, p->now(p->payload));
    fflush(p->out);
}
