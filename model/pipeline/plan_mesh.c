/* How the ranks of a generation share its work. */
#include "model/pipeline/plan.h"

#include "model/transformer/features.h"

static const struct sparse_kind *sparse_kind(const struct plan_input *in)
{
    return dit_sparse_kind(model_dit(&in->model));
}

struct sparse_tiles plan_tiles(const struct plan_input *in)
{
    const struct sparse_kind *kind = sparse_kind(in);
    const struct latent_shape s = in->latent;

    return kind != NULL
               ? kind->count(in->self_attention.sparsity, plan_frames(in), s.h / 2, s.w / 2)
               : (struct sparse_tiles){ 0 };
}

status plan_choose_mesh(struct plan_input *in, struct mesh_shape given, bool guided)
{
    const struct sparse_kind *kind = sparse_kind(in);

    if (kind != NULL && given.ring > 1)
        return fail(ST_USAGE,
                    "--ring_size %d: this transformer's self attention is sparse (%s), and its "
                    "tiles are chosen from the whole sequence: use --ulysses_size",
                    given.ring, kind->name);
    if (kind != NULL)
        given.ring = 1;
    in->mesh = given;
    return mesh_choose(&in->mesh, in->ranks, in->ranks_per_node, model_dit(&in->model)->heads,
                       guided, in->gpu && kind == NULL);
}

void plan_join(struct plan_input *in)
{
    const bool sparse = sparse_kind(in) != NULL; // without the reason for which GPUs prefer a ring

    in->joined = plan_has_single(in) ? mesh_joined(in->mesh, in->ranks_per_node,
                                                   model_dit(&in->model)->heads, in->gpu && !sparse)
                                     : (struct mesh_shape){ 0 };
    if (sparse && in->joined.ring > 1)
        in->joined = (struct mesh_shape){ 0 };
}
