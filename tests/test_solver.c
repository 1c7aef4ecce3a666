/* Sigma lists, timesteps and the sample after every step, compared with the official schedulers. */
#include "kernels/table.h"
#include "model/sampling/schedule.h"
#include "tests/check.h"
#include "tests/golden.h"

#include <string.h>

#define COLS 24
#define STEPS_MAX 50

static struct device dev;
static float *start;

/* Velocities of up to 50 steps for both CFG branches: independent from step to step; smooth. */
static struct velocities {
    float *cond, *uncond;
} rough, smooth;

static double worst; // relative error of all states

/* Runs the solver up to step `to` and records x after each step. */
static void run_steps(struct solver *s, struct tensor x, const struct velocities *v, bool guided,
                      int to, float *states)
{
    while (s->step < to) {
        struct tensor c = tensor_of(v->cond + s->step * COLS, DT_F32, 1, COLS), u = { 0 };

        if (guided)
            u = tensor_of(v->uncond + s->step * COLS, DT_F32, 1, COLS);
        golden_need(solver_step(s, &dev, x, c, u, 5));
        memcpy(states + (s->step - 1) * COLS, x.data, COLS * sizeof(float));
    }
}

/* Runs all steps; then again, with the history copied into a second solver halfway. */
static void check_states(const struct schedule *schedule, const struct velocities *v, bool guided,
                         const float *want, const char *name)
{
    const int steps = schedule->steps, half = steps / 2;
    struct arena a = { 0 };
    struct solver s, t;
    struct tensor x = { 0 };
    float states[STEPS_MAX * COLS], again[STEPS_MAX * COLS];

    golden_need(arena_init(&a, &dev, "solver", 1 << 16));
    golden_need(arena_take(&a, &x, DT_F32, 1, COLS));
    golden_need(solver_init(&s, schedule, &a, 1, COLS));
    memcpy(x.data, start, COLS * sizeof(float));
    run_steps(&s, x, v, guided, steps, states);
    for (int i = 0; i < steps; i++) {
        const double d = check_distance(states + i * COLS, want + i * COLS, COLS);

        worst = fmax(worst, d);
        CHECK(d <= 1e-6, "%s: relative error %.3g after step %d", name, d, i);
    }

    golden_need(solver_init(&s, schedule, &a, 1, COLS));
    memcpy(x.data, start, COLS * sizeof(float));
    run_steps(&s, x, v, guided, half, again);
    golden_need(solver_init(&t, schedule, &a, 1, COLS));
    const struct tensor old[] = { s.m[0], s.m[1], s.last }, new[] = { t.m[0], t.m[1], t.last };
    for (int i = 0; i < SOLVER_STATE; i++) {
        if (old[i].ndim != 0)
            memcpy(new[i].data, old[i].data, COLS * sizeof(float));
    }
    t.step = s.step;
    t.order = s.order;
    memset(s.next.data, 0xff, COLS * sizeof(float)); // NaN: scratch must not be used across steps
    memset(t.next.data, 0xff, COLS * sizeof(float));
    run_steps(&t, x, v, guided, steps, again);
    CHECK(memcmp(states, again, (size_t)steps * COLS * sizeof(float)) == 0,
          "%s: the run resumed after step %d gives another result", name, half);
    arena_done(&a);
}

static void check_solver(struct golden *g, enum solver_kind kind, int steps, int shift)
{
    struct schedule s = { 0 };
    char name[64];
    float *sigma = NULL, *timestep = NULL, *states = NULL, *smooth_states = NULL;
    int64_t n = 0;

    snprintf(name, sizeof(name), "%s.%d.%d", solver_name(kind), steps, shift);
    sigma = golden_f32(g, &n, "sigma.%s", name);
    timestep = golden_f32(g, NULL, "timestep.%s", name);
    golden_need(schedule_init(&s, kind, steps, shift));
    CHECK(n == steps + 1 && memcmp(sigma, s.sigma, (size_t)n * sizeof(float)) == 0,
          "%s: sigmas differ", name);
    CHECK(memcmp(timestep, s.timestep, (size_t)steps * sizeof(float)) == 0, "%s: timesteps differ",
          name);
    if (steps != 40) {
        const bool guided = shift == 5 || shift == 16;

        states = golden_f32(g, NULL, "states.%s", name);
        smooth_states = golden_f32(g, NULL, "smooth.%s", name);
        check_states(&s, &rough, guided, states, name);
        check_states(&s, &smooth, guided, smooth_states, name);
    }
    free(sigma);
    free(timestep);
    free(states);
    free(smooth_states);
    schedule_done(&s);
}

/* The lists of timesteps that the official program logs. */
static const struct {
    enum solver_kind kind;
    int steps;
    double shift;
    int timestep[STEPS_MAX];
} lists[] = {
    { SOLVER_UNIPC, 50, 5, { 999, 995, 991, 987, 982, 978, 973, 968, 963, 957, 952, 946, 940,
                             934, 927, 920, 913, 906, 898, 890, 882, 873, 863, 854, 843, 833,
                             821, 809, 796, 783, 768, 753, 737, 720, 701, 681, 660, 636, 611,
                             584, 555, 522, 487, 448, 405, 356, 302, 241, 172, 92 } },
    { SOLVER_UNIPC, 40, 3, { 999, 991, 982, 973, 963, 954, 944, 933, 922, 911, 899, 887, 874, 861,
                             847, 832, 817, 801, 785, 767, 749, 730, 710, 688, 666, 642, 617, 590,
                             562, 531, 499, 465, 428, 388, 345, 299, 249, 195, 136, 71 } },
    { SOLVER_UNIPC, 40, 5, { 999, 994, 989, 983, 978, 972, 965, 959, 952, 944, 937, 929, 920, 911,
                             902, 892, 882, 870, 859, 846, 833, 818, 803, 786, 768, 749, 728, 706,
                             681, 654, 624, 591, 555, 514, 468, 416, 356, 288, 208, 113 } },
    { SOLVER_UNIPC, 40, 12, { 999, 997, 995, 993, 990, 988, 985, 982, 979, 976, 972, 969, 965, 961,
                              956, 952, 947, 941, 936, 929, 922, 915, 907, 898, 888, 877, 865, 852,
                              837, 819, 799, 776, 749, 717, 678, 631, 571, 492, 386, 235 } },
    { SOLVER_UNIPC, 50, 16, { 999, 998, 997, 995, 994, 993, 991, 989, 988, 986, 984, 982, 980,
                              978, 976, 973, 971, 968, 965, 963, 959, 956, 953, 949, 945, 941,
                              936, 931, 926, 920, 914, 907, 899, 891, 882, 872, 861, 848, 834,
                              818, 799, 778, 752, 722, 685, 639, 581, 504, 399, 245 } },
    { SOLVER_UNIPC, 20, 5, { 999, 989, 978, 965, 952, 937, 920, 902, 882, 859,
                             833, 803, 768, 728, 681, 624, 555, 468, 356, 208 } },
    { SOLVER_DPMPP, 50, 5, { 1000, 995, 991, 987, 982, 978, 973, 968, 963, 957, 952, 946, 940,
                             934,  927, 921, 913, 906, 898, 890, 882, 873, 864, 854, 844, 833,
                             821,  809, 797, 783, 769, 753, 737, 720, 701, 681, 660, 637, 612,
                             585,  555, 523, 487, 448, 405, 357, 303, 241, 172, 92 } },
    { SOLVER_DPMPP, 40, 12, { 1000, 997, 995, 993, 990, 988, 985, 982, 979, 976, 972, 969, 965, 961,
                              957,  952, 947, 941, 936, 929, 923, 915, 907, 898, 888, 878, 865, 852,
                              837,  819, 800, 776, 750, 717, 679, 631, 571, 493, 387, 235 } },
    { SOLVER_DPMPP, 40, 5, { 1000, 994, 989, 984, 978, 972, 965, 959, 952, 945, 937, 929, 921, 912,
                             902,  892, 882, 871, 859, 846, 833, 818, 803, 787, 769, 750, 729, 706,
                             681,  654, 625, 592, 555, 514, 468, 416, 357, 288, 208, 113 } },
};

static void check_lists(void)
{
    for (size_t i = 0; i < COUNT(lists); i++) {
        struct schedule s = { 0 };

        golden_need(schedule_init(&s, lists[i].kind, lists[i].steps, lists[i].shift));
        for (int k = 0; k < s.steps; k++)
            CHECK((int)s.timestep[k] == lists[i].timestep[k],
                  "%s, %d steps, shift %g: timestep %d is %g, not %d", solver_name(s.kind), s.steps,
                  lists[i].shift, k, s.timestep[k], lists[i].timestep[k]);
        schedule_done(&s);
    }
}

static void check_refusals(void)
{
    struct schedule s = { 0 };
    enum solver_kind kind = SOLVER_EULER;

    CHECK(schedule_init(&s, SOLVER_UNIPC, 0, 5) == ST_USAGE, "0 steps");
    CHECK(schedule_init(&s, SOLVER_UNIPC, 5, 0) == ST_USAGE, "shift 0");
    CHECK(schedule_init(&s, SOLVER_UNIPC, 5, NAN) == ST_USAGE, "shift NaN");
    CHECK(solver_parse(&kind, "ddim") == ST_USAGE && strstr(status_line(), "dpm++") != NULL, "%s",
          status_line());
    CHECK(solver_parse(&kind, "dpm++") == ST_OK && kind == SOLVER_DPMPP, "dpm++ is not known");
}

int main(int argc, char **argv)
{
    static const int steps[] = { 1, 2, 3, 10, 20, 40, 50 }, shifts[] = { 3, 5, 12, 16 };
    struct golden g = { 0 };

    if (argc < 2)
        return 1;
    g = golden_open(argv[1], "solver.safetensors");
    start = golden_f32(&g, NULL, "start");
    rough.cond = golden_f32(&g, NULL, "cond");
    rough.uncond = golden_f32(&g, NULL, "uncond");
    smooth.cond = golden_f32(&g, NULL, "smooth_cond");
    smooth.uncond = golden_f32(&g, NULL, "smooth_uncond");
    for (int pass = 0; pass < 2; pass++) {
        struct table table = table_ref;

        if (pass == 1)
            table_cpu(&table);
        golden_need(device_open_cpu(&dev, 1, &table, table.workspace));
        for (size_t i = 0; i < COUNT(steps); i++) {
            for (size_t k = 0; k < COUNT(shifts); k++) {
                check_solver(&g, SOLVER_UNIPC, steps[i], shifts[k]);
                check_solver(&g, SOLVER_DPMPP, steps[i], shifts[k]);
                check_solver(&g, SOLVER_EULER, steps[i], shifts[k]);
            }
        }
        device_close(&dev);
    }
    check_lists();
    check_refusals();
    free(start);
    free(rough.cond);
    free(rough.uncond);
    free(smooth.cond);
    free(smooth.uncond);
    golden_close(&g);
    printf("solver states: relative error %.2g at most\n", worst);
    return check_end("solver");
}
