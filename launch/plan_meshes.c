#include "launch/plan_meshes.h"

#include "launch/commands.h"
#include "launch/progress.h"
#include "model/transformer/sparse.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define GIB ((double)(1 << 30))

static bool same_mesh(struct mesh_shape a, struct mesh_shape b)
{
    return a.cfg == b.cfg && a.ring == b.ring && a.ulysses == b.ulysses;
}

static status plan_mesh(struct mesh_plan *p, const struct plan_input *in, struct mesh_shape mesh,
                        const struct fit_machine *machine)
{
    const struct plan_stage *step;
    struct plan_input other = *in;
    struct plan_rank most = { 0 }, one;
    double node = 0;

    other.mesh = mesh;
    plan_join(&other);
    *p = (struct mesh_plan){ .mesh = mesh, .chosen = same_mesh(mesh, in->mesh), .fits = true };
    for (int i = 0; i < in->ranks; i++) {
        struct fit_rank needs;

        TRY(plan_rank(&other, i, &one));
        needs = fit_of(&other, i, &one);
        plan_cover(&most, &one);
        node = i % in->ranks_per_node == 0 ? needs.host : node + needs.host;
        p->device = fmax(p->device, in->gpu ? needs.device : needs.host);
        p->fits &= needs.device <= machine->device && node <= machine->host;
    }
    step = plan_stage(&most, STAGE_STEP);
    p->step_s = step->seconds;
    p->waited_s = step->waited;
    p->sent = step->sent;
    p->across = step->sent_across;
    p->total_s = plan_seconds(&other, &most);
    return ST_OK;
}

static int compare(const void *a, const void *b)
{
    const struct mesh_plan *x = a, *y = b;

    if (x->fits != y->fits)
        return x->fits ? -1 : 1;
    return x->total_s < y->total_s ? -1 : x->total_s > y->total_s;
}

status meshes_plan(struct mesh_plan **list, int *count, const struct plan_input *in,
                   const struct fit_machine *machine)
{
    const int heads = model_dit(&in->model)->heads, most_cfg = plan_two_branches(in) ? 2 : 1;
    const bool sparse = plan_tiles(in).kept > 0; // attention that does not run on a ring

    *count = 0;
    *list = calloc(2 * (size_t)in->ranks, sizeof(**list));
    if (*list == NULL)
        return fail(ST_MEMORY, "cannot allocate host memory for the plans of %d meshes", in->ranks);
    for (int cfg = 1; cfg <= most_cfg; cfg++)
        for (int u = 1; u <= heads && u <= in->ranks; u++) {
            const struct mesh_shape mesh = { cfg, in->ranks / (cfg * u), u };

            if (cfg * mesh.ring * u == in->ranks && (mesh.ring == 1 || !sparse))
                TRY(plan_mesh(&(*list)[(*count)++], in, mesh, machine));
        }
    qsort(*list, (size_t)*count, sizeof(**list), compare);
    return ST_OK;
}

void meshes_print(const struct mesh_plan *list, int count)
{
    printf("meshes    cfg x ring x ulysses    GiB a rank  GB sent a step  to other nodes   "
           "s a step  s of waiting    a video\n");
    for (int i = 0; i < count; i++) {
        const struct mesh_plan *p = &list[i];
        char mesh[32], total[24] = "no memory";

        snprintf(mesh, sizeof(mesh), "%d x %d x %d", p->mesh.cfg, p->mesh.ring, p->mesh.ulysses);
        if (p->fits)
            progress_time(total, p->total_s);
        printf("          %-20s %13.2f %15.3f %15.3f %10.4g %13.4g %10s%s\n", mesh, p->device / GIB,
               p->sent / 1e9, p->across / 1e9, p->step_s, p->waited_s, total,
               p->chosen ? "  chosen" : "");
    }
}

void meshes_json(cJSON *json, const struct mesh_plan *list, int count)
{
    cJSON *rows = cJSON_AddArrayToObject(json, "meshes");

    for (int i = 0; i < count; i++) {
        const struct mesh_plan *p = &list[i];
        cJSON *row = cJSON_CreateObject();

        command_json_mesh(row, "mesh", p->mesh);
        cJSON_AddBoolToObject(row, "chosen", p->chosen);
        cJSON_AddBoolToObject(row, "fits", p->fits);
        cJSON_AddNumberToObject(row, "rank_bytes", p->device);
        cJSON_AddNumberToObject(row, "step_sent_bytes", p->sent);
        cJSON_AddNumberToObject(row, "step_sent_across_bytes", p->across);
        cJSON_AddNumberToObject(row, "step_seconds", p->step_s);
        cJSON_AddNumberToObject(row, "step_waited_seconds", p->waited_s);
        cJSON_AddNumberToObject(row, "seconds", p->total_s);
        cJSON_AddItemToArray(rows, row);
    }
}
