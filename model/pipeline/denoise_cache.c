#include "model/pipeline/denoise_cache.h"

#include "model/pipeline/denoise_internal.h"
#include "parallel/split.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* easycache: what the columns of `sums` are, ROW_SUMS for each call of op_row_sums. */
enum { SUM_OUTPUT, SUM_INPUT, SUM_STEP, SUM_SIZE, EASY_CALLS };

static enum cache_kind kind_of(const struct denoise *d)
{
    return d->cache.steps.set.kind;
}

/* The branch that a rank computes as its `branch`: 0 cond, 1 uncond. */
static int which(const struct dit_run *run, int branch)
{
    return run->mesh->size.cfg == 2 ? run->mesh->cfg : branch;
}

/* The number of branches that a step needs, cond first. */
static int branches_at(const struct denoise *d, int step)
{
    return guide_forwards(denoise_guide(d, step));
}

/* The branches that some step needs. */
static int branches_of(const struct denoise *d)
{
    int most = 1;

    for (int s = 0; s < d->in.schedule.steps; s++)
        most = branches_at(d, s) > most ? branches_at(d, s) : most;
    return most;
}

static struct tensor columns(struct tensor sums, int call)
{
    return tensor_slice(sums, 1, (int64_t)ROW_SUMS * call, ROW_SUMS);
}

/* ---- begin ---- */

/* Rows of `all`, and their columns. */
static void measured_shape(const struct cache_settings *set, int64_t tokens, int64_t *rows,
                           int64_t *cols)
{
    *rows = set->kind == CACHE_CALIBRATE ? CACHE_BRANCHES * tokens : tokens;
    *cols = set->kind == CACHE_EASY ? EASY_CALLS * ROW_SUMS : ROW_SUMS;
    if (set->kind != CACHE_EASY && set->kind != CACHE_FIRST_BLOCK && set->kind != CACHE_CALIBRATE)
        *rows = 0;
}

size_t cache_host_bytes(const struct cache_settings *set, int64_t tokens)
{
    int64_t rows, cols;

    measured_shape(set, tokens, &rows, &cols);
    return (size_t)(rows * cols) * sizeof(float) +
           (set->kind == CACHE_CALIBRATE ? (size_t)rows * sizeof(double) : 0);
}

/* Memory for the sums of `mine` rows of this rank, of `tokens` in all. */
static status begin_sums(struct denoise *d, int64_t mine, int64_t tokens)
{
    struct denoise_cache *c = &d->cache;
    const bool calibrates = kind_of(d) == CACHE_CALIBRATE;
    int64_t rows, cols;

    measured_shape(&c->steps.set, tokens, &rows, &cols);
    if (rows == 0)
        return ST_OK;
    TRY(arena_take(d->a, &c->sums, DT_F32, mine, cols));
    TRY(arena_take(d->a, &c->all, DT_F32, rows, cols));
    TRY(device_zero(d->dev, c->sums));
    TRY(device_zero(d->dev, c->all));
    if (d->dev->kind == DEVICE_PLAN)
        return ST_OK;
    c->host = malloc((size_t)(rows * cols) * sizeof(float));
    for (int b = 0; b < CACHE_BRANCHES && calibrates; b++)
        c->norm[b] = calloc((size_t)tokens, sizeof(double));
    return c->host != NULL && (!calibrates || (c->norm[0] != NULL && c->norm[1] != NULL))
               ? ST_OK
               : fail(ST_MEMORY, "cannot allocate host memory for sums of %lld rows",
                      (long long)rows);
}

/* What is kept of each branch that this rank computes, in turn for the experts. */
static status begin_residuals(struct denoise *d, int64_t rows, int64_t dim)
{
    const int branches = d->mesh->size.cfg == 1 ? branches_of(d) : 1;
    struct denoise_cache *c = &d->cache;

    for (int b = 0; b < branches; b++)
        TRY(arena_take(d->a, &c->residual[b], DT_F32, rows, dim));
    if (kind_of(d) != CACHE_FIRST_BLOCK)
        return ST_OK;
    TRY(arena_take(d->a, &c->first, DT_F32, rows, dim));
    return device_zero(d->dev, c->first);
}

/* The most rows of the sequence that this rank has in a step. */
static int64_t most_rows(const struct denoise *d, int64_t sequence)
{
    const struct mesh *meshes[] = { d->mesh, d->mesh->joined };
    int64_t most = 0;

    for (size_t i = 0; i < COUNT(meshes); i++) {
        const int64_t rows = meshes[i] == NULL ? 0
                                               : split_count(sequence, mesh_seq_size(meshes[i]),
                                                             mesh_seq_rank(meshes[i]));

        most = rows > most ? rows : most;
    }
    return most;
}

status cache_begin(struct denoise *d, int64_t dim)
{
    const struct cache_settings *set = &d->in.cache;
    const int64_t rows = d->spans.latent_rows, cols = d->x.dim[1];
    const int64_t sequence = segments_tokens(&d->segments);
    const int64_t mine = most_rows(d, sequence);
    struct denoise_cache *c = &d->cache;

    TRY(step_cache_init(&c->steps, set, d->in.schedule.steps,
                        d->experts == 2 ? d->in.low_from : d->in.schedule.steps));
    for (int s = 0; s < c->steps.steps && c->steps.forwards != NULL; s++)
        c->steps.forwards[s] = (unsigned char)branches_at(d, s);
    step_cache_start(&c->steps);
    if (set->kind == CACHE_OFF)
        return ST_OK;
    for (int b = 0; b < CACHE_BRANCHES; b++) {
        c->anchor_step[b] = -1;
        if (set->kind != CACHE_CALIBRATE && b < branches_of(d))
            TRY(arena_take(d->a, &c->anchor[b], DT_F32, rows, cols));
        if (set->kind == CACHE_EASY && b < branches_of(d))
            TRY(arena_take(d->a, &c->offset[b], DT_F32, rows, cols));
    }
    if (set->kind != CACHE_EASY) {
        TRY(begin_residuals(d, mine, dim));
        return begin_sums(d, mine, sequence);
    }
    TRY(arena_take(d->a, &c->before, DT_F32, rows, cols));
    TRY(arena_take(d->a, &c->output, DT_F32, rows, cols));
    return begin_sums(d, rows, denoise_tokens(d));
}

void cache_end(struct denoise *d)
{
    step_cache_done(&d->cache.steps);
    free(d->cache.host);
    for (int b = 0; b < CACHE_BRANCHES; b++)
        free(d->cache.norm[b]);
    d->cache = (struct denoise_cache){ 0 };
}

/* teacache: decides on the steps of an expert by its time embedding. */
static status decide_by_time(struct denoise *d, struct dit_run *run, int expert)
{
    struct denoise_cache *c = &d->cache;
    const struct tensor rows = c->steps.set.embedding ? run->time : run->time_mod;
    const int64_t n = rows.dim[1];
    const int steps = c->steps.steps, low = c->steps.low_from;
    double *change = calloc((size_t)steps, sizeof(*change));
    float *host = malloc(tensor_bytes(rows));
    status st;

    if (change == NULL || host == NULL)
        TRY_OUT(fail(ST_MEMORY, "cannot allocate host memory for the times of %d steps", steps));
    TRY_OUT(device_download(d->dev, host, rows));
    TRY_OUT(device_wait(d->dev));
    for (int s = 1; s < steps; s++) {
        const float *now = host + s * n, *last = now - n;
        double moved = 0, size = 0;

        for (int64_t i = 0; i < n; i++) {
            moved += fabs((double)now[i] - (double)last[i]);
            size += fabs((double)last[i]);
        }
        change[s] = moved / size;
    }
    step_cache_tea(&c->steps, expert == 0 ? 0 : low, expert == 0 ? low : steps, change);
out:
    free(change);
    free(host);
    return st;
}

/* ---- sums of rows ---- */

/* Gathers sums [this rank's tokens of the sequence, cols] to `all`: those of cond, or with `both`
 * of ranks for both branches, those of cond, then those of uncond. */
static status gather(struct denoise *d, const struct mesh *mesh, struct tensor all,
                     struct tensor sums, bool both)
{
    const int ranks = d->mesh->all.size, seq = mesh_seq_size(mesh);
    const int64_t tokens = segments_tokens(&d->segments);
    const size_t row = (size_t)sums.dim[1] * sizeof(float);
    size_t *offset = malloc(((size_t)ranks + 1) * sizeof(size_t));
    struct transfer t = { 0 };
    status st;

    if (offset == NULL)
        return fail(ST_MEMORY, "cannot allocate host memory for the offsets of %d ranks", ranks);
    for (int r = 0; r <= ranks; r++) {
        const int64_t first = r / seq * tokens + split_at(tokens, seq, r % seq);

        offset[r] = (size_t)(r < seq || both ? first : tokens) * row;
    }
    TRY_OUT(group_all_gather(&d->mesh->all, &t, all.data, offset, sums.data));
    TRY_OUT(transfer_wait(&t));
out:
    free(offset);
    return st;
}

/* The sum of a column of `rows` rows in host memory. */
static double column_sum(const float *host, int64_t rows, int64_t cols, int col)
{
    double sum = 0;

    for (int64_t i = 0; i < rows; i++)
        sum += (double)host[i * cols + col];
    return sum;
}

/* ---- firstblock ---- */

/* dit_decision: measures the change of cond's residual, and decides for both branches. */
static status after_first(void *payload, int step, int branch, struct tensor change, bool *reuse)
{
    struct denoise *d = payload;
    struct denoise_cache *c = &d->cache;
    const struct dit_run *run = denoise_run(d, step);
    const bool cond = which(run, branch) == 0, again = c->rebuild || d->dev->kind == DEVICE_PLAN;
    const struct tensor first = tensor_slice(c->first, 0, 0, run->s_loc);
    const struct tensor sums = tensor_slice(c->sums, 0, 0, run->s_loc);
    const int64_t tokens = c->all.dim[0];
    double moved, size;

    if (cond)
        TRY(op_row_sums(d->dev, sums, change, first));
    if (branch == 0 && !c->rebuild)
        TRY(gather(d, run->mesh, c->all, sums, false));
    if (branch == 0 && !again) {
        TRY(device_download(d->dev, c->host, c->all));
        TRY(device_wait(d->dev));
        moved = column_sum(c->host, tokens, ROW_SUMS, 0);
        size = column_sum(c->host, tokens, ROW_SUMS, 1);
        step_cache_decide(&c->steps, step, size > 0 ? moved / size : INFINITY);
    }
    *reuse = !again && step_cache_skips(&c->steps, step, 0);
    return cond && !*reuse ? op_copy(d->dev, first, change) : ST_OK;
}

/* What is kept of the branches, in the rows of this run. */
static void begin_run(struct denoise *d, struct dit_run *run)
{
    for (int b = 0; run->m != NULL && b < run->branches; b++)
        if (d->cache.residual[b].ndim != 0)
            run->residual[b] = tensor_slice(d->cache.residual[b], 0, 0, run->s_loc);
    if (kind_of(d) == CACHE_FIRST_BLOCK)
        run->after_first = (struct dit_decision){ after_first, d };
}

status cache_begin_expert(struct denoise *d, int expert)
{
    struct dit_run *run = &d->run[expert], *joined = &d->joined[expert];
    struct denoise_cache *c = &d->cache;

    begin_run(d, run);
    begin_run(d, joined);
    c->agreed = kind_of(d) != CACHE_TEA || d->dev->kind == DEVICE_PLAN;
    return c->agreed ? ST_OK : decide_by_time(d, run->m != NULL ? run : joined, expert);
}

/* ---- easycache ---- */

static status subtract(struct denoise *d, struct tensor out, struct tensor a, struct tensor b)
{
    return op_lincomb(d->dev, out, 2, (const float[]){ 1, -1 }, (const struct tensor[]){ a, b });
}

/* Keeps the velocities of a computed step, whose latent was x; the change since the last one is
 * measured before. */
static status keep_velocities(struct denoise *d, int step, struct tensor x)
{
    struct denoise_cache *c = &d->cache;
    const struct tensor cond = tensor_at(d->v, 0);

    c->measured = c->anchor_step[0] >= 0 && !c->rebuild && step != c->steps.low_from;
    if (c->measured) {
        TRY(op_row_sums(d->dev, columns(c->sums, SUM_OUTPUT), cond, c->output));
        TRY(op_row_sums(d->dev, columns(c->sums, SUM_INPUT), x, c->anchor[0]));
    }
    TRY(op_copy(d->dev, c->output, cond));
    for (int b = 0; b < branches_at(d, step); b++)
        TRY(subtract(d, c->offset[b], tensor_at(d->v, b), x));
    return ST_OK;
}

/* Velocities from those of the last computed step: they moved as the latent did. */
static status predict(struct denoise *d, int step)
{
    const struct denoise_cache *c = &d->cache;

    for (int b = 0; b < branches_at(d, step); b++)
        TRY(op_lincomb(d->dev, tensor_at(d->v, b), 2, (const float[]){ 1, 1 },
                       (const struct tensor[]){ d->x, c->offset[b] }));
    return ST_OK;
}

/* ---- a step ---- */

/* The forwards of a saved state, computed again: those of the last step that was computed, if the
 * next step uses what they give. */
static status rebuild(struct denoise *d, int next)
{
    struct denoise_cache *c = &d->cache;
    const int first = next >= c->steps.low_from ? c->steps.low_from : 0; // of the expert
    const bool both = c->anchor_step[0] >= 0 && c->steps.forwards[c->anchor_step[0]] == 2;
    const int step[CACHE_BRANCHES] = { c->anchor_step[0], c->anchor_step[both ? 1 : 0] };
    const struct tensor x[CACHE_BRANCHES] = { c->anchor[0], c->anchor[both ? 1 : 0] };

    if (step[0] >= first &&
        (kind_of(d) == CACHE_EASY || c->steps.forwards[step[0]] == c->steps.forwards[next])) {
        TRY(denoise_branches(d, step, x));
        if (kind_of(d) == CACHE_EASY)
            TRY(keep_velocities(d, step[0], x[0]));
    }
    c->rebuild = false;
    return ST_OK;
}

status cache_start_step(struct denoise *d, int step)
{
    struct denoise_cache *c = &d->cache;

    c->predicted = c->measured = false;
    if (kind_of(d) == CACHE_OFF)
        return ST_OK;
    if (!c->agreed)
        world_broadcast(d->mesh->world, c->steps.skip, (size_t)c->steps.steps, 0);
    c->agreed = true;
    if (c->rebuild)
        TRY(rebuild(d, step));
    if (kind_of(d) != CACHE_EASY)
        return ST_OK;
    c->measured = false;
    TRY(op_copy(d->dev, c->before, d->x));
    c->predicted = step_cache_skips(&c->steps, step, 0);
    return c->predicted ? predict(d, step) : ST_OK;
}

/* Whether the forward of a branch is skipped; one that the step does not need, if cond's is. On a
 * plan device none is, as it needs less. */
static bool skips(const struct denoise *d, int step, int branch)
{
    return d->dev->kind != DEVICE_PLAN && !d->cache.rebuild && kind_of(d) != CACHE_FIRST_BLOCK &&
           step_cache_skips(&d->cache.steps, step, branch < branches_at(d, step) ? branch : 0);
}

status cache_forward(struct denoise *d, struct dit_run *run, int step, int branch, struct tensor v,
                     struct tensor x)
{
    const int w = which(run, branch);

    if (!skips(d, step, w))
        return dit_forward(run, d->scratch, step, branch, v, x);
    if (w < branches_at(d, step))
        TRY(dit_reuse(run, d->scratch, step, branch, v, x));
    return run->mesh->size.cfg == 2 && !skips(d, step, 1 - w) ? dit_follow(run, step) : ST_OK;
}

/* calibrate: the norms of this step's residuals, row by row. */
static status measure_residuals(struct denoise *d, const struct dit_run *run)
{
    struct denoise_cache *c = &d->cache;
    const struct tensor sums = tensor_slice(c->sums, 0, 0, run->s_loc);
    const int64_t tokens = run->tokens;

    for (int b = 0; b < run->branches; b++) {
        TRY(op_row_sums(d->dev, sums, run->residual[b], run->residual[b]));
        TRY(gather(d, run->mesh, tensor_slice(c->all, 0, b * tokens, c->all.dim[0] - b * tokens),
                   sums, run->mesh->size.cfg == 2));
    }
    return ST_OK;
}

status cache_end_velocity(struct denoise *d, int step)
{
    struct denoise_cache *c = &d->cache;
    struct cache_report *report = d->in.report;

    if (kind_of(d) == CACHE_OFF)
        return ST_OK;
    if (kind_of(d) == CACHE_EASY && !c->predicted)
        TRY(keep_velocities(d, step, d->x));
    if (kind_of(d) == CACHE_CALIBRATE)
        TRY(measure_residuals(d, denoise_run(d, step)));
    for (int b = 0; b < branches_at(d, step); b++) {
        const bool computed = !step_cache_skips(&c->steps, step, b);

        if (report != NULL) {
            report->forwards++;
            report->computed += computed;
        }
        if (!computed || c->anchor[b].ndim == 0)
            continue;
        TRY(op_copy(d->dev, c->anchor[b], d->x));
        c->anchor_step[b] = step;
    }
    return ST_OK;
}

status cache_end_step(struct denoise *d)
{
    struct denoise_cache *c = &d->cache;

    if (kind_of(d) != CACHE_EASY)
        return ST_OK;
    TRY(op_row_sums(d->dev, columns(c->sums, SUM_STEP), d->x, c->before));
    TRY(op_row_sums(d->dev, columns(c->sums, SUM_SIZE), d->x, c->output));
    return denoise_gather_rows(d, d->mesh, c->all, c->sums);
}

status cache_read(struct denoise *d)
{
    const enum cache_kind kind = kind_of(d);

    return kind == CACHE_EASY || kind == CACHE_CALIBRATE
               ? device_download(d->dev, d->cache.host, d->cache.all)
               : ST_OK;
}

/* calibrate: the mean over the tokens of a residual's norm divided by that of the step before. */
static void note_ratios(struct denoise *d, int step)
{
    struct denoise_cache *c = &d->cache;
    const int64_t tokens = c->all.dim[0] / CACHE_BRANCHES;

    for (int b = 0; b < branches_at(d, step); b++) {
        const float *rows = c->host + b * tokens * ROW_SUMS;
        double sum = 0;

        for (int64_t i = 0; i < tokens; i++) {
            const double norm = sqrt((double)rows[i * ROW_SUMS + 2]);

            sum += norm / c->norm[b][i];
            c->norm[b][i] = norm;
        }
        if (step > 0 && d->in.report != NULL)
            d->in.report->ratio[b][step] = sum / (double)tokens;
    }
}

status cache_decide(struct denoise *d)
{
    struct denoise_cache *c = &d->cache;
    const int64_t rows = c->all.dim[0], cols = c->all.dim[1];
    const int next = d->solver.step;
    double step, size;

    if (kind_of(d) == CACHE_CALIBRATE)
        note_ratios(d, next - 1);
    if (kind_of(d) != CACHE_EASY || next >= c->steps.steps)
        return ST_OK;
    if (next - 1 == c->steps.low_from)
        c->steps.rate = -1; // another expert
    if (c->measured)
        c->steps.rate = (float)(column_sum(c->host, rows, cols, ROW_SUMS * SUM_OUTPUT) /
                                column_sum(c->host, rows, cols, ROW_SUMS * SUM_INPUT));
    step = column_sum(c->host, rows, cols, ROW_SUMS * SUM_STEP);
    size = column_sum(c->host, rows, cols, ROW_SUMS * SUM_SIZE + 1);
    step_cache_decide(&c->steps, next,
                      c->steps.rate >= 0 ? (double)c->steps.rate * step / size : INFINITY);
    return ST_OK;
}

/* ---- a saved state ---- */

status cache_save(struct denoise *d, struct denoise_state *state)
{
    const struct denoise_cache *c = &d->cache;
    const struct step_cache *s = &c->steps;
    const int next = d->solver.step;

    for (int b = 0; b < CACHE_BRANCHES; b++) {
        const int at = c->anchor[b].ndim != 0 && next < s->steps ? c->anchor_step[b] : -1;

        state->anchor_step[b] = at;
        state->anchored[b] = at >= 0 && (b == 0 || at != c->anchor_step[0]);
        if (state->anchored[b] || (at >= 0 && d->dev->kind == DEVICE_PLAN))
            TRY(denoise_gather(d, state->anchor[b], c->anchor[b]));
    }
    state->cache[0] = s->error;
    state->cache[1] = s->rate;
    state->cache[2] = (float)s->in_row;
    state->cache[3] = next < s->steps && step_cache_skips(s, next, 0) ? 1 : 0;
    return ST_OK;
}

status cache_restore(struct denoise *d, const struct denoise_state *state)
{
    struct denoise_cache *c = &d->cache;
    const int next = (int)state->step;

    for (int b = 0; b < CACHE_BRANCHES && c->anchor[b].ndim != 0; b++) {
        c->anchor_step[b] = (int)state->anchor_step[b];
        if (c->anchor_step[b] < 0)
            continue;
        TRY(denoise_scatter(d, c->anchor[b], state->anchor[state->anchored[b] ? b : 0]));
        c->rebuild = true;
    }
    if (kind_of(d) != CACHE_EASY && kind_of(d) != CACHE_FIRST_BLOCK)
        return ST_OK;
    c->steps.error = state->cache[0];
    c->steps.rate = state->cache[1];
    c->steps.in_row = (int)state->cache[2];
    if (next < c->steps.steps && kind_of(d) == CACHE_EASY)
        c->steps.skip[next] = state->cache[3] != 0 ? (1 << CACHE_BRANCHES) - 1 : 0;
    return ST_OK;
}
