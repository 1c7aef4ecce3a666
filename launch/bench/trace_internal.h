/* trace_internal.h - what the files of the trace share. */
#ifndef LAUNCH_BENCH_TRACE_INTERNAL_H
#define LAUNCH_BENCH_TRACE_INTERNAL_H

#include "launch/bench/trace.h"

struct trace *trace_of(const struct device *dev);

/* Begins a span; *span is NULL while the trace is off or full. trace_end accepts NULL. */
status trace_begin(struct trace *t, struct trace_span **span, enum trace_lane lane,
                   const char *family);
status trace_end(struct trace *t, struct trace_span *span);

/* Replaces the table's ops by those that are recorded. */
void trace_ops(struct table *t);

#endif
