/* trace.h - where the time of a run goes: an op table and a comm table that put marks round every
 * op and every exchange and call the real ones. Nothing above them knows.
 *
 *     trace_open(&t, &dev, room);      // dev.table is the tracing one from here on
 *     trace_groups(&t, &mesh);         // and so are the exchanges of the mesh's groups
 *     trace_start(&t);
 *     dit_forward(...);
 *     trace_stop(&t);                  // waits for the device
 *     ... t.spans[0 .. t.count) ...
 *     trace_close(&t);                 // dev.table is the real one again
 *
 * Marks cost about a microsecond each on a GPU, and an op that overlaps its neighbour no longer
 * does: a traced run takes a little longer than one that is not. */
#ifndef LAUNCH_BENCH_TRACE_H
#define LAUNCH_BENCH_TRACE_H

#include "kernels/table.h"
#include "parallel/mesh.h"
#include "runtime/timeline.h"

#include <stdio.h>

enum trace_lane { LANE_OPS, LANE_EXCHANGES, LANE_COUNT };

struct trace_span {
    char family[24]; // "gemm", "self attention", "all-to-all", ...
    char what[56];   // shapes, for products; else ""
    enum trace_lane lane;
    int from, to;   // marks
    double at, end; // seconds since trace_start; an exchange: from its start to its end
    double waited;  // exchanges: what of it the device's queue stood still for
    double flops;   // ops
    double bytes;   // ops: read and written, each once; exchanges: sent to others
    int wait_from;  // exchanges: the mark before the wait
};

struct trace_comm;

struct trace {
    struct table table; // first, so that an op finds its trace by dev->table
    const struct table *real;
    struct trace_comm *comm;
    struct device *dev;
    struct timeline timeline;
    struct trace_span *spans;
    int count, room;
    bool on;
    int begin, end;   // marks of the whole
    double total;     // seconds, from trace_start to trace_stop
    int64_t text_len; // attention over so many keys is cross attention
};

/* Room for `room` spans. ST_MEMORY, ST_DEVICE. */
status trace_open(struct trace *t, struct device *dev, int room, int64_t text_len);
void trace_close(struct trace *t); // accepts a zeroed value
void trace_groups(struct trace *t, struct mesh *m);

/* From here to trace_stop. What went before is forgotten. trace_stop waits for the device and works
 * out the times. */
status trace_start(struct trace *t);
status trace_stop(struct trace *t);

/* One row per family and shape, largest first, as a table; and the same as JSON objects. */
struct trace_row {
    const char *family, *what;
    enum trace_lane lane;
    int calls;
    double seconds, waited, flops, bytes;
};
int trace_rows(const struct trace *t, struct trace_row *rows, int room);

/* The spans of all ranks as a Chrome trace, which ui.perfetto.dev and chrome://tracing show.
 * Collective; rank 0 writes. ST_IO. */
status trace_write(const struct trace *t, struct world *w, const char *path);

#endif
