/* Files of other kinds and other models, by name. */
#include "model/checkpoint/checkpoint_internal.h"

#include <stdlib.h>
#include <string.h>

/* Refuses files of another kind by name; otherwise the error would list unknown tensors. */
static status refuse_foreign(const struct tensorfile *f)
{
    static const struct {
        const char *text, *what;
    } foreign[] = {
        { "lora_", "a LoRA: pass it with --lora, and --ckpt_dir with the model it is for" },
        { ".lora.", "a LoRA: pass it with --lora, and --ckpt_dir with the model it is for" },
        { ".lokr_", "a LyCORIS adapter: pass it with --lora, and --ckpt_dir with its model" },
        { ".hada_", "a LyCORIS adapter: pass it with --lora, and --ckpt_dir with its model" },
        { "controlnet_", "a ControlNet, which this version does not run" },
        { "double_blocks.", "a transformer of FLUX or HunyuanVideo" },
        { "input_blocks.", "a UNet of Stable Diffusion" },
    };

    for (int i = 0; i < f->count; i++) {
        for (size_t k = 0; k < COUNT(foreign); k++) {
            if (strstr(f->tensors[i].name, foreign[k].text) != NULL)
                return fail(ST_FORMAT, "%s: is %s (tensor %.80s)",
                            tensorfile_path(f, f->tensors[i].file), foreign[k].what,
                            f->tensors[i].name);
        }
    }
    return ST_OK;
}

/* Refuses GGUF files of other models than Wan and its text encoder; those of some writers do not
 * say what they are. */
static status check_architecture(const struct tensorfile *f)
{
    static const char *const known[] = { "wan", "pig", "cow", "t5", "t5encoder" };

    for (int i = 0; i < f->files; i++) {
        struct file_value v;
        bool found;

        TRY(tensorfile_value(f, i, "general.architecture", &v));
        found = v.type != VALUE_STRING || v.size < 8;
        for (size_t k = 0; k < COUNT(known); k++)
            found = found || strcmp((const char *)v.bytes + 8, known[k]) == 0;
        if (!found)
            fail(ST_FORMAT,
                 "%s: is a GGUF file of the architecture %.40s, not of Wan or its text encoder",
                 tensorfile_path(f, i), (const char *)v.bytes + 8);
        free(v.bytes);
        if (!found)
            return ST_FORMAT;
    }
    return ST_OK;
}

status refuse_kind(const struct tensorfile *f)
{
    TRY(refuse_foreign(f));
    return check_architecture(f);
}

static const char *article(const char *name)
{
    return strchr("aeiou", name[0]) != NULL ? "an" : "a";
}

/* Names the part that a file has, if it is not `part`. */
status refuse_part(const struct checkpoint *c, const struct checkpoint_part *p)
{
    struct naming naming;

    if (names_detect(&naming, &p->file, p->row))
        return ST_OK;
    for (int i = 0; i < c->count; i++)
        if (names_detect(&naming, &p->file, c->parts[i].row))
            return fail(ST_FORMAT, "%s: has %s %s, not %s %s", tensorfile_path(&p->file, 0),
                        article(c->parts[i].row->name), c->parts[i].row->name,
                        article(p->row->name), p->row->name);
    for (int i = 0; i < p->file.count; i++)
        if (strstr(p->file.tensors[i].name, "vace_blocks.0.") != NULL)
            return fail(ST_FORMAT,
                        "%s: is a VACE module, which needs the tensors of the transformer that it "
                        "belongs to: merge both into one file",
                        tensorfile_path(&p->file, 0));
    return fail(ST_FORMAT, "%s: has no %s, nor another part of Wan; its first tensor is %.80s",
                tensorfile_path(&p->file, 0), p->row->name, p->file.tensors[0].name);
}

const char *refuse_model_name(const char *tensor)
{
    static const struct {
        const char *text, *model;
    } models[] = {
        { "audio_proj.audio_proj_glob_1", "HuMo" },
        { "multitalk_audio_proj.", "MultiTalk or InfiniteTalk" },
        { "audio_proj.proj1", "MultiTalk, InfiniteTalk or SkyReels-V3" },
        { "fps_embedding.", "SkyReels-V2 with diffusion forcing" },
        { "cam_encoder.", "ReCamMaster" },
        { "ip_adapter.", "Lynx" },
        { "ref_adapter.", "Lynx" },
        { "emo_k_proj.", "FlashPortrait" },
        { "LQ_proj_in.", "FlashVSR" },
        { "patch_embedding_pose.", "SCAIL" },
        { "condition_embedding_align.", "SteadyDancer" },
        { "image_to_cond.", "One-to-All-Animation" },
        { "control_blocks_dense.", "LongVie 2" },
        { "audio_model.", "Ovi" },
        { "dwpose_embedding.", "UniAnimate-DiT" },
        { "blocks.0.block.", "Wan-Animate-2" },
    };

    for (size_t i = 0; i < COUNT(models); i++)
        if (strstr(tensor, models[i].text) != NULL)
            return models[i].model;
    return NULL;
}
