/* batch.h - the requests of `batch`, one per line of a file: their names, what is done already, and
 * what can be checked before the work starts.
 *
 *   batch.c          the command: loads the models once, runs the requests
 *   batch_entries.c  this header
 *
 * A result names the request that made it (video_comment). A line is done if its result exists and
 * names the same request and weights; it is refused, or with --overwrite made again, if the result
 * names others. While a video is made, its state is kept in a run file, from which the next start
 * of the batch goes on. */
#ifndef LAUNCH_BATCH_H
#define LAUNCH_BATCH_H

#include "launch/job.h"

struct entry {
    struct request request; // complete; save_file and run_file are set
    int line;
    char where[512];   // "jobs.jsonl:3"
    bool done;         // its result exists, so it is skipped
    bool own_run_file; // the run file was not asked for: it is removed when the result is written
    bool continues;    // the run file exists
};

struct batch {
    struct entry *entries;
    int count;
    int *todo; // entries that are not done; set by batch_check
    int todo_count;
    const char **prompts; // each text once; borrowed from the requests
    int prompt_count;
};

/* Reads the lines of job->batch_file on rank 0, all of them before the first is used, and sends
 * them to all ranks. Collective. ST_USAGE, ST_IO, ST_FORMAT, ST_MEMORY; the line names the file's
 * line. */
status batch_read(struct batch *b, struct world *w, const struct request *job);

/* For the requests that are not done: collects the prompts, each text once, and chooses cfg_size
 * where it is left open. All requests run on one mesh. Local. ST_MEMORY. */
status batch_prepare(struct batch *b);
void batch_done(struct batch *b); // accepts a zeroed batch

/* Finds what is done, and refuses files that several lines write, results of other requests, and
 * files that cannot be written. Collective. */
status batch_check(struct batch *b, struct job *j, const struct request *job);

/* Checks the run files that a request reads, against its plan. For rank 0. */
status batch_check_inputs(const struct entry *e, const struct plan_input *plan);

/* "jobs.jsonl:3: " and status_line() become the line of `st`. */
status batch_fail(status st, const struct entry *e);

#endif
