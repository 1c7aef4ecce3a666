/* The schedules of distilled models, a sample after each of their steps, and one generator's draws
 * one after the other, compared with recorded ones; and the table of presets. */
#include "kernels/table.h"
#include "model/sampling/few_step.h"
#include "model/sampling/noise.h"
#include "tests/check.h"
#include "tests/golden.h"

#include <string.h>

#define COLS 24

static struct device dev;

static const struct recorded {
    const char *name;
    enum solver_kind kind;
    int steps;
    double list[FEW_STEP_LIST_MAX]; // list[0] 0: none
    bool warp;
    double shift, sigma_max;
} recorded[] = {
    { "lightx2v-4", SOLVER_EULER, 4, { 1000, 750, 500, 250 }, true, 5, 0 },
    { "lightx2v-4", SOLVER_EULER, 4, { 0 }, false, 5, 0 }, // the same, without a list
    { "lightx2v-8", SOLVER_EULER, 8, { 1000, 875, 750, 625, 500, 375, 250, 125 }, true, 5, 0 },
    { "lightx2v-8", SOLVER_EULER, 8, { 0 }, false, 5, 0 },
    { "meanflow-2", SOLVER_EULER, 2, { 1000, 500 }, true, 5, 0 },
    { "meanflow-2", SOLVER_EULER, 2, { 0 }, false, 5, 0 },
    { "renoise-4", SOLVER_RENOISE, 4, { 1000, 750, 500, 250 }, true, 5, 0 },
    { "renoise-8", SOLVER_RENOISE, 8, { 1000, 850, 700, 550, 350, 275, 200, 125 }, true, 12, 0 },
    { "fastwan-3", SOLVER_RENOISE, 3, { 1000, 757, 522 }, false, 8, 0 },
    { "causvid-9", SOLVER_EULER, 9, { 999, 934, 862, 756, 603, 410, 250, 140, 74 }, true, 1, 0 },
    { "turbowan-4", SOLVER_RENOISE, 4, { 0 }, false, 0, 80 },
    { "turbowan-2", SOLVER_RENOISE, 2, { 0 }, false, 0, 80 },
    { "turbowan-ode", SOLVER_EULER, 4, { 0 }, false, 0, 80 },
    { "turbowan-i2v-4", SOLVER_RENOISE, 4, { 0 }, false, 0, 200 },
};

static status open_schedule(struct schedule *s, const struct recorded *r)
{
    if (r->list[0] != 0)
        return schedule_init_list(s, r->kind, r->list, r->steps, r->shift, r->warp);
    if (r->sigma_max != 0)
        return schedule_init_rcm(s, r->kind, r->steps, r->sigma_max);
    return schedule_init(s, r->kind, r->steps, r->shift);
}

static double check_states(struct golden *g, const struct schedule *schedule, const char *name)
{
    struct arena a = { 0 };
    struct solver s;
    struct tensor x, none = { 0 };
    float *start = golden_f32(g, NULL, "start"), *velocity = golden_f32(g, NULL, "velocity");
    float *noise = golden_f32(g, NULL, "noise"), *want = golden_f32(g, NULL, "states.%s", name);
    double worst = 0;

    golden_need(arena_init(&a, &dev, "solver", 1 << 16));
    golden_need(arena_take(&a, &x, DT_F32, 1, COLS));
    golden_need(solver_init(&s, schedule, &a, 1, COLS));
    for (int i = 0; i < COLS; i++)
        ((float *)x.data)[i] = start[i] * schedule->start;
    for (int i = 0; i < schedule->steps; i++) {
        const struct tensor v = tensor_of(velocity + i * COLS, DT_F32, 1, COLS);

        if (s.noise.ndim != 0)
            memcpy(s.noise.data, noise + i * COLS, COLS * sizeof(float));
        golden_need(solver_step(&s, &dev, x, v, none, 1));
        worst = fmax(worst, check_distance(x.data, want + i * COLS, COLS));
    }
    CHECK(solver_history(schedule->kind) == 0 && solver_order(schedule, 2) == 0, "%s: state", name);
    arena_done(&a);
    free(start);
    free(velocity);
    free(noise);
    free(want);
    return worst;
}

static void check_schedules(struct golden *g)
{
    double worst = 0;

    for (size_t i = 0; i < COUNT(recorded); i++) {
        const struct recorded *r = &recorded[i];
        struct schedule s;
        int64_t n;
        float *sigma = golden_f32(g, &n, "sigma.%s", r->name);
        float *timestep = golden_f32(g, NULL, "timestep.%s", r->name);

        golden_need(open_schedule(&s, r));
        CHECK(n == s.steps + 1, "%s: %lld sigmas", r->name, (long long)n);
        check_near(r->name, s.sigma, sigma, n, 1e-7);
        check_near(r->name, s.timestep, timestep, n - 1, 1e-7);
        CHECK(s.start == (r->sigma_max > 0 ? sigma[0] : 1), "%s: starts with %g", r->name, s.start);
        worst = fmax(worst, check_states(g, &s, r->name));
        schedule_done(&s);
        free(sigma);
        free(timestep);
    }
    CHECK(worst <= 5e-7, "states: relative error %.3g", worst);
    printf("states: relative error %.2g at most\n", worst);
}

static void refuse(const double *list, int steps, double shift)
{
    struct schedule s;

    CHECK(schedule_init_list(&s, SOLVER_EULER, list, steps, shift, true) == ST_USAGE &&
              s.sigma == NULL,
          "a list of %d steps, shift %g: %s", steps, shift, status_line());
}

static void check_refusals(void)
{
    struct schedule s;

    refuse((double[]){ 1000, 1000 }, 2, 5);
    refuse((double[]){ 500, 750 }, 2, 5);
    refuse((double[]){ 1001 }, 1, 5);
    refuse((double[]){ 500, 0 }, 2, 5);
    refuse((double[]){ 500, -1 }, 2, 5);
    refuse((double[]){ NAN }, 1, 5);
    refuse((double[]){ 500 }, 0, 5);
    refuse((double[]){ 500 }, 1, 0);
    CHECK(schedule_init_rcm(&s, SOLVER_RENOISE, 5, 80) == ST_USAGE, "5 steps of rCM");
    CHECK(!solver_takes_list(SOLVER_UNIPC) && !solver_takes_list(SOLVER_DPMPP), "lists");
}

/* A generator goes on where a draw ended, also after noise_skip, and a copy repeats it. */
static void check_draws(struct golden *g)
{
    static const int64_t sizes[] = { 1000, 1003, 300000 };
    static float x[300000], y[300000];

    for (size_t i = 0; i < COUNT(sizes); i++) {
        const int64_t n = sizes[i];
        float *want = i < 2 ? golden_f32(g, NULL, "draws.%lld", (long long)n) : NULL;

        for (enum noise_device device = NOISE_CPU; device <= NOISE_CUDA; device++) {
            struct noise one, other;

            noise_open(&one, device, 42, 1);
            for (int draw = 0; draw < 3; draw++) {
                noise_open(&other, device, 42, 1);
                noise_skip(&other, n, draw);
                noise_draw(&one, x, n);
                noise_draw(&other, y, n);
                CHECK(memcmp(x, y, (size_t)n * sizeof(float)) == 0, "device %d: draw %d of %lld",
                      device, draw, (long long)n);
                if (want != NULL && device == NOISE_CPU)
                    check_near("draw", x, want + 16 * draw, 16, 1e-7);
            }
            noise_draw(&one, x, n);
            CHECK(memcmp(x, y, (size_t)n * sizeof(float)) != 0, "two draws are the same");
        }
        free(want);
    }
}

/* A draw of a GPU's generator takes the calls of each thread's generator that a longer draw makes
 * after it: with one SM, 2,048 threads of four numbers a call. */
static void check_cuda_calls(void)
{
    static float whole[4 * 8192], part[8192];
    struct noise g;

    noise_open(&g, NOISE_CUDA, 7, 1);
    noise_draw(&g, whole, 4 * 8192);
    noise_open(&g, NOISE_CUDA, 7, 1);
    for (int i = 0; i < 4; i++) {
        noise_draw(&g, part, 8192);
        CHECK(memcmp(part, whole + 8192 * i, sizeof(part)) == 0, "draw %d", i);
    }
    noise_open(&g, NOISE_CUDA, 7, 1);
    noise_draw(&g, part, 100); // reserves a whole call
    noise_draw(&g, part, 8192);
    CHECK(memcmp(part, whole + 8192, sizeof(part)) == 0, "after a short draw");
}

static void check_presets(void)
{
    const struct few_step *f;
    const char *word;
    int length;

    for (int i = 0; few_step_at(i) != NULL; i++) {
        struct schedule s;

        f = few_step_at(i);
        const struct recorded r = { .kind = f->solver,
                                    .steps = f->steps,
                                    .warp = f->warp,
                                    .shift = f->shift,
                                    .sigma_max = f->sigma_max };
        struct recorded with_list = r;

        memcpy(with_list.list, f->list, sizeof(f->list));
        CHECK(open_schedule(&s, &with_list) == ST_OK, "%s: %s", f->name, status_line());
        CHECK(s.steps == f->steps && f->guidance == 1 && f->boundary_step < f->steps, "%s",
              f->name);
        schedule_done(&s);
        CHECK(few_step_find(&f, f->name) == ST_OK && f == few_step_at(i), "%s", f->name);
    }
    CHECK(few_step_find(&f, "lightx2v4") == ST_USAGE && strstr(status_line(), "lightx2v-4") != NULL,
          "%s", status_line());

    static const struct {
        const char *file;
        int experts;
        const char *preset;
    } names[] = {
        { "wan2.1_t2v_14b_lightx2v_4step.safetensors", 1, "lightx2v-4" },
        { "Wan2.1-I2V-14B-480P-StepDistill-CfgDistill-Lightx2v", 1, "lightx2v-4" },
        { "Wan21_T2V_14B_lightx2v_cfg_step_distill_lora_rank32", 1, "lightx2v-4" },
        { "wan2.2_i2v_A14b_high_noise_lightx2v_4step_1030", 2, "lightx2v-4" },
        { "Wan2.2-Lightning_T2V-A14B-4steps-lora_HIGH_fp16", 2, "lightning-4" },
        { "Wan2.1-T2V-14B/distill_models/distill_model_meanflow.safetensors", 1, "meanflow-2" },
        { "FastWan2.2-TI2V-5B-FullAttn-Diffusers", 1, "fastwan-3" },
        { "\"_class_name\": \"WanDMDPipeline\"", 1, "fastwan-3" },
        { "Wan21_CausVid_14B_T2V_lora_rank32_v2", 1, "causvid-9" },
        { "AccVideo-WanX-T2V-14B", 1, "accvideo-10" },
        { "Wan2.1_T2V_14B_FusionX_LoRA", 1, "fusionx-8" },
        { "Wan14BT2VFusioniX_fp16_", 1, "fusionx-8" },
        { "TurboWan2.1-T2V-1.3B-480P.pth", 1, "turbowan-4" },
        { "TurboWan2.2-I2V-A14B-720P", 2, "turbowan-i2v-4" },
        { "Wan2.1-T2V-14B", 1, NULL },
        { "diffusion_pytorch_model-00001-of-00006.safetensors", 1, NULL },
    };
    for (size_t i = 0; i < COUNT(names); i++) {
        f = few_step_recognize(names[i].file, names[i].experts, &word, &length);
        CHECK(names[i].preset == NULL ? f == NULL
                                      : f != NULL && strcmp(f->name, names[i].preset) == 0,
              "%s is taken for %s", names[i].file, f != NULL ? f->name : "nothing");
    }
}

int main(int argc, char **argv)
{
    struct table table = table_ref;
    struct golden g;

    if (argc < 2)
        return 1;
    g = golden_open(argv[1], "few_step.safetensors");
    golden_need(device_open_cpu(&dev, 1, &table, table.workspace));
    check_schedules(&g);
    device_close(&dev);
    check_refusals();
    check_draws(&g);
    check_cuda_calls();
    check_presets();
    golden_close(&g);
    return check_end("few_step");
}
