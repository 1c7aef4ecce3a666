/* A line of a batch file; the same text as the request in a run file, for --resume. */
#include "launch/request.h"
#include "tests/fuzz/fuzz.h"

#include <stdlib.h>
#include <string.h>

static void init_job(struct request *job)
{
    static char *argv[] = { "jobs.jsonl", "--task", "t2v-1.3B", "--ckpt_dir", "folder" };

    request_init(job);
    if (request_parse(job, CMD_BATCH, NULL, 0, (int)COUNT(argv), argv) != ST_OK ||
        request_complete(job, CMD_BATCH) != ST_OK)
        exit(1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct request job;
    char *text = fuzz_text(data, size), *json = NULL, *name = NULL;
    struct request line, resumed, again;

    if (job.task_name == NULL)
        init_job(&job);
    request_init(&line);
    request_init(&resumed);
    request_init(&again);
    if (fuzz_ok(request_line(&line, &job, text, "jobs.jsonl:1"))) {
        // a request that was accepted is one that its own JSON gives again
        if (!fuzz_ok(request_to_json(&line, &json)) ||
            !fuzz_ok(request_from_json(&again, json, "run.h5")))
            __builtin_trap();
        fuzz_ok(request_default_name(&line, 1, 1, 0, &name));
    }
    fuzz_ok(request_resume(&resumed, text, NULL, "run.h5"));
    request_done(&again);
    request_done(&resumed);
    request_done(&line);
    free(name);
    free(json);
    free(text);
    return 0;
}
