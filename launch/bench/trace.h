/* trace.h - the time of each op and each collective of a run: an op table and a comm table that
 * record events before and after every call of the real tables. The callers need no change.
 *
 *     trace_open(&t, &dev, capacity, text_len); // replaces dev.table by the tracing one
 *     trace_groups(&t, &mesh);         // and the comm tables of the mesh's groups
 *     trace_start(&t);
 *     dit_forward(...);
 *     trace_stop(&t);                  // synchronizes with the device
 *     ... t.spans[0 .. t.count) ...
 *     trace_close(&t);                 // restores the real tables
 *
 * An event costs about a microsecond on a GPU, and ops no longer overlap: a traced run takes a
 * little longer than an untraced one. */
#ifndef LAUNCH_BENCH_TRACE_H
#define LAUNCH_BENCH_TRACE_H

#include "kernels/table.h"
#include "parallel/mesh.h"
#include "runtime/timeline.h"

#include <stdio.h>

enum trace_lane { LANE_OPS, LANE_COMMUNICATION, LANE_COUNT };

struct trace_span {
    char family[24]; // "gemm", "self attention", "all-to-all", ...
    char what[56];   // shapes, for products; else ""
    enum trace_lane lane;
    int from, to;   // events
    double at, end; // seconds since trace_start
    double waited;  // communication: how long the device's stream waited for it
    double flops;   // ops
    double bytes;   // ops: read and written, each once; communication: sent to others
    int wait_from;  // communication: the event before the wait
};

struct trace_comm;

struct trace {
    struct table table; // first, so that an op finds its trace by dev->table
    const struct table *real;
    struct trace_comm *comm;
    struct device *dev;
    struct timeline timeline;
    struct trace_span *spans;
    int count, capacity; // of spans
    bool on;
    int begin, end;   // events at trace_start and trace_stop
    double total;     // seconds from trace_start to trace_stop
    int64_t text_len; // attention with this number of keys is counted as cross attention
};

/* Allocates `capacity` spans; calls after that are not recorded. ST_MEMORY, ST_DEVICE. */
status trace_open(struct trace *t, struct device *dev, int capacity, int64_t text_len);
void trace_close(struct trace *t); // accepts a zeroed value
void trace_groups(struct trace *t, struct mesh *m);

/* Records from trace_start to trace_stop; earlier spans are discarded. trace_stop synchronizes with
 * the device and computes the times. */
status trace_start(struct trace *t);
status trace_stop(struct trace *t);

/* One row per family and shape, longest first; at most `capacity` rows. Returns their number. */
struct trace_row {
    const char *family, *what;
    enum trace_lane lane;
    int calls;
    double seconds, waited, flops, bytes;
};
int trace_rows(const struct trace *t, struct trace_row *rows, int capacity);

/* Writes the spans of all ranks as a Chrome trace, for ui.perfetto.dev and chrome://tracing.
 * Collective, and all ranks get the same status; rank 0 writes. ST_IO, ST_MEMORY. */
status trace_write(const struct trace *t, struct world *w, const char *path);

#endif
