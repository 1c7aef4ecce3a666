/* The rows of a request: a flag, its line in --help, and its keys in JSON and in batch lines. */
#include "launch/request_internal.h"

#define ONE (CMD_GENERATE | CMD_PLAN | CMD_LINE)
#define ALL (ONE | CMD_BATCH)

/* An input that only some tasks use. */
#define INPUT_MARK(name) (NUMBERS | (1 + INPUT_##name) << INPUT_SHIFT)
#define INPUT(flag, what)                                                                          \
    {                                                                                              \
        .name = #flag, .type = OPT_STRING, .offset = AT(input[INPUT_##flag]), .value = "FILE",     \
        .commands = ONE, .marks = INPUT_MARK(flag), .help = what, .hidden = true                   \
    }
/* An image that tasks use; `other`: the name that DiffSynth has for it, or NULL. */
#define IMAGE(flag, other, what)                                                                   \
    {                                                                                              \
        .name = #flag, .type = OPT_STRING, .offset = AT(input[INPUT_##flag]), .value = "FILE",     \
        .alias = other, .commands = ONE, .marks = INPUT_MARK(flag), .help = what                   \
    }

/* A clip. */
#define CLIP(flag, what)                                                                           \
    {                                                                                              \
        .name = #flag, .type = OPT_STRING, .offset = AT(input[INPUT_##flag]), .value = "FILE",     \
        .commands = ONE, .marks = INPUT_MARK(flag), .help = what                                   \
    }

/* `plan` takes the flags of `generate`, so that one word turns a command line into its plan. */
const struct option request_rows[] = {
    { "batch_file", OPT_STRING, AT(batch_file), .group = "Request", .value = "FILE.jsonl",
      .positional = true, .commands = CMD_BATCH | CMD_PLAN,
      .help = "requests of batch, one per line: a JSON object whose keys are names of flags" },
    { "overwrite", OPT_SWITCH, AT(overwrite), .commands = CMD_BATCH, .marks = JOB,
      .help = "make results again that another request, or other weights, have made (default: "
              "such a batch is refused)" },
    { "task", OPT_STRING, AT(task_name), .group = "Request", .value = "TASK", .commands = ALL,
      .marks = NUMBERS | JOB,
      .help = "a task of the list below (default: that of the checkpoint; without one t2v-14B)" },
    { "prompt", OPT_TEXT, AT(prompt), .value = "TEXT", .commands = ONE, .marks = NUMBERS,
      .help = "text that describes the video; @FILE reads it from a file (default: the official "
              "example)" },
    { "negative_prompt", OPT_TEXT, AT(negative_prompt), .alias = "n_prompt", .value = "TEXT",
      .commands = ALL, .marks = NUMBERS,
      .help = "text that describes what to avoid (default: the official negative prompt)" },
    { "size", OPT_PAIR, AT(size), .value = "W*H", .joint = '*', .wide_joint = true, .commands = ALL,
      .marks = NUMBERS,
      .help = "width and height in pixels, multiples of 16 (default: the task's, see below)" },
    { "frame_num", OPT_INT, AT(frame_num), .value = "N", .least = 1, .commands = ALL,
      .marks = NUMBERS, .help = "number of frames, 4n+1 (default: the task's)" },
    { "height", OPT_INT, AT(height), .value = "N", .least = 1, .most = 100000, .commands = ALL,
      .marks = NUMBERS,
      .help =
          "DiffSynth's flags instead of --size and --frame_num: rounded up to multiples of 16 (of "
          "TI2V 32), frames to 4n+1" },
    { "width", OPT_INT, AT(width), .value = "N", .least = 1, .most = 100000, .commands = ALL,
      .marks = NUMBERS, .help = "see --height" },
    { "num_frames", OPT_INT, AT(num_frames), .value = "N", .least = 1, .most = 1000000,
      .commands = ALL, .marks = NUMBERS, .help = "see --height" },
    { "base_seed", OPT_SEED, AT(base_seed), .value = "N", .commands = ALL, .marks = NUMBERS,
      .help = "random seed, 0 to 2^64-1; the same seed gives the same video; -1 chooses one "
              "(default -1)" },

    { "fast", OPT_CHOICE, AT(fast), .group = "Sampling", .choices = "balanced|fast|fastest",
      .commands = ALL, .marks = NUMBERS | JOB,
      .help = "make the video faster and less exact: settings of the list below; flags that are "
              "given too win (default: exact)" },
    { "preset", OPT_STRING, AT(preset), .value = "NAME", .commands = ALL,
      .marks = NUMBERS | SAMPLING,
      .help = "settings of a distilled model, of the list below; flags that are given too win" },
    { "sample_steps", OPT_INT, AT(sample_steps), .value = "N", .least = 1, .most = 1000,
      .commands = ALL, .marks = NUMBERS | SAMPLING,
      .help = "number of denoising steps (default: the task's)" },
    { "sample_solver", OPT_CHOICE, AT(sample_solver), .choices = "unipc|dpm++|euler|renoise",
      .commands = ALL, .marks = NUMBERS | SAMPLING,
      .help =
          "solver of the denoising steps; renoise: each step adds fresh noise to the image that "
          "it predicts, for models distilled with DMD or rCM (default unipc; euler with a list "
          "of steps)" },
    { "denoising_steps", OPT_NUMBERS, AT(denoising_steps), .alias = "denoising_step_list",
      .value = "T,T,...", .joint = ',', .least = 0, .most = 1000, .commands = ALL,
      .marks = NUMBERS | SAMPLING,
      .help = "list of steps of a distilled model, for euler and renoise: timesteps that fall from "
              "1000, as 1000,750,500,250" },
    { "warp_denoising_step", OPT_BOOL, AT(warp_denoising_step), .value = "True|False",
      .commands = ALL, .marks = NUMBERS | SAMPLING,
      .help = "True: --sample_shift shifts the timesteps of the list; False: they are shifted "
              "already (default True)" },
    { "sigma_max", OPT_DOUBLE, AT(sigma_max), .value = "X", .least = 1e-3, .most = 1e6,
      .commands = ALL, .marks = NUMBERS | SAMPLING,
      .help =
          "the 1 to 4 steps of rCM and TurboDiffusion, from this level of noise: 80, or 200 for "
          "I2V" },
    { "boundary", OPT_DOUBLE, AT(boundary), .alias = "boundary_ratio", .value = "X", .least = 0,
      .most = 1, .commands = ALL, .marks = NUMBERS | SAMPLING,
      .help = "of two experts, the second computes the timesteps below 1000 X (default: the "
              "task's, 0.875 for T2V and 0.9 for I2V)" },
    { "boundary_step_index", OPT_INT, AT(boundary_step_index), .value = "N", .least = 0,
      .most = 1000, .commands = ALL, .marks = NUMBERS | SAMPLING,
      .help = "of two experts, the first computes N steps and the second the rest" },
    { "sample_shift", OPT_DOUBLE, AT(sample_shift), .value = "X", .commands = ALL,
      .marks = NUMBERS | SAMPLING, .least = 1e-3, .most = 1e3,
      .help =
          "shift of the noise schedule: a larger value spends more steps at high noise; 8 to 12 "
          "are recommended for 1.3B (default: the task's)" },
    { "sample_guide_scale", OPT_SCALES, AT(sample_guide_scale), .alias = "sample_guide_scale_text",
      .value = "X[,Y]", .joint = ',', .least = 0, .most = 1e3, .commands = ALL,
      .marks = NUMBERS | SAMPLING,
      .help = "scale of classifier-free guidance (CFG); 1 turns guidance off and halves the work; "
              "X,Y: that of low noise and of high noise, for two experts (default: the task's)" },
    { "sample_guide_scale_img", OPT_DOUBLE, AT(guide_image), .value = "X", .least = 0, .most = 1e3,
      .commands = ALL, .marks = NUMBERS,
      .help = "Phantom: scale of the reference images; that of the text is --sample_guide_scale, "
              "also --sample_guide_scale_text (default 5)" },
    { "cfg_gate", OPT_SCALES, AT(cfg_gate), .value = "X[,Y]", .joint = ',', .least = 0,
      .most = 1000, .commands = ALL, .marks = NUMBERS | SAMPLING,
      .help = "from this step on compute only the prompt's branch, and guide with the last "
              "difference of both: up to 1 a fraction of the steps, above 1 a number of steps; X,Y "
              "for low and high noise, of which each has a guided step first. 0.5 saves a quarter "
              "of the forwards (default: guided in all steps)" },
    { "cfg_interval", OPT_SCALES, AT(cfg_interval), .value = "FROM,TO", .joint = ',', .least = 0,
      .most = 1000, .commands = ALL, .marks = NUMBERS | SAMPLING,
      .help = "guide only from one step to another, in the same units; before and after only the "
              "prompt's branch is computed (default: guided in all steps)" },
    { "cfg_zero_star", OPT_SWITCH, AT(cfg_zero_star), .alias = "use_cfg_zero_star", .commands = ALL,
      .marks = NUMBERS,
      .help = "CFG-Zero*: scale the negative prompt's branch to its projection on the other" },
    { "zero_init_steps", OPT_INT, AT(zero_init_steps), .value = "N", .least = 0, .most = 1000,
      .commands = ALL, .marks = NUMBERS,
      .help = "CFG-Zero*: the first N steps have velocity 0 and need no forward (default 1 with "
              "--cfg_zero_star, else 0)" },
    { "cfg_merge", OPT_SWITCH, AT(cfg_merge), .commands = ALL,
      .help = "DiffSynth's flag to compute both branches as one batch; here they are computed one "
              "after the other, or on different ranks (--cfg_size 2), with the same result" },
    { "rand_device", OPT_CHOICE, AT(rand_device), .choices = "cpu|cuda", .commands = ALL,
      .marks = NUMBERS,
      .help = "first noise as PyTorch's CPU generator or its CUDA generator draws it; needs no GPU "
              "(default cpu)" },
    { "cuda_sms", OPT_INT, AT(cuda_sms), .value = "N", .least = 1, .most = 1024, .commands = ALL,
      .marks = NUMBERS,
      .help =
          "number of multiprocessors (SMs) of the GPU that --rand_device cuda imitates (default "
          "132, H100 and H200)" },
    { "noise", OPT_STRING, AT(noise_file), .value = "FILE.h5", .commands = ONE, .marks = NUMBERS,
      .help = "read the first noise from a run file (its data set /noise)" },
    { "text", OPT_STRING, AT(text_file), .value = "FILE.h5", .commands = ONE, .marks = NUMBERS,
      .help =
          "read the text embeddings from a run file (/text/cond, /text/uncond); the text encoder "
          "is not loaded" },

    { "cache", OPT_CHOICE, AT(cache), .group = "Step caching (see the README for its price)",
      .choices = "off|magcache|teacache|easycache|firstblock", .commands = ALL,
      .marks = NUMBERS | CACHE,
      .help =
          "predict the result of the transformer in some steps from an earlier one; of 50 steps "
          "about half are computed with the defaults of magcache, whose plan lists them "
          "(default off)" },
    { "cache_threshold", OPT_DOUBLE, AT(cache_threshold), .alias = "magcache_thresh", .value = "X",
      .least = 0, .most = 1e6, .commands = ALL, .marks = NUMBERS | CACHE,
      .help = "estimated error up to which steps are skipped: larger is faster and less exact "
              "(default: that of the method's authors for the task)" },
    { "cache_retain", OPT_DOUBLE, AT(cache_retain), .alias = "retention_ratio", .value = "X",
      .least = 0, .most = 1e6, .commands = ALL, .marks = NUMBERS | CACHE,
      .help = "the first steps, which are always computed: their number, or below 1 their share of "
              "the steps (default: as above)" },
    { "cache_max_skip", OPT_INT, AT(cache_max_skip), .alias = "magcache_K", .value = "N",
      .least = 0, .most = 1000, .commands = ALL, .marks = NUMBERS | CACHE,
      .help = "skip at most N steps one after the other; 0: any number (default: as above)" },
    { "cache_ratios", OPT_STRING, AT(cache_ratios), .value = "FILE.json", .commands = ALL,
      .marks = NUMBERS | CACHE,
      .help = "table of magcache that --calibrate_cache has written (default: the authors' for the "
              "task)" },
    { "calibrate_cache", OPT_STRING, AT(calibrate_cache), .value = "FILE.json",
      .commands = CMD_GENERATE | CMD_PLAN,
      .help = "measure the table of magcache in this run, which computes all steps" },
    { "tea_cache_l1_thresh", OPT_DOUBLE, AT(tea_cache_l1_thresh), .alias = "teacache_thresh",
      .value = "X", .least = 0, .most = 1e6, .commands = ALL, .marks = NUMBERS | CACHE,
      .help = "DiffSynth's flag for --cache teacache --cache_threshold X" },
    { "tea_cache_model_id", OPT_CHOICE, AT(tea_cache_model_id), .choices = CACHE_POLYNOMIALS,
      .commands = ALL, .marks = NUMBERS | CACHE,
      .help = "model whose polynomial teacache uses (default: the task's)" },
    { "use_ret_steps", OPT_SWITCH, AT(use_ret_steps), .commands = ALL, .marks = NUMBERS | CACHE,
      .help = "teacache as its official program with this flag: the first five steps are computed, "
              "and the last one may be skipped (default: the first and the last)" },

    { "sliding_window_size", OPT_INT, AT(sliding_window_size),
      .group = "Windows, for videos that are longer than those of training", .value = "N",
      .least = 1, .most = 100000, .commands = ALL, .marks = NUMBERS,
      .help =
          "DiffSynth's windows: in each step the transformer computes N latent frames at a time "
          "(a latent frame is 4 frames)" },
    { "sliding_window_stride", OPT_INT, AT(sliding_window_stride), .value = "N", .least = 1,
      .most = 100000, .commands = ALL, .marks = NUMBERS,
      .help = "latent frames from window to window; where windows overlap they are blended" },
    { "context_schedule", OPT_CHOICE, AT(context_schedule),
      .choices = "static_standard|uniform_standard|uniform_looped", .commands = ALL,
      .marks = NUMBERS,
      .help = "the context windows of ComfyUI-WanVideoWrapper: the same in each step, or others in "
              "each, also in a loop (default static_standard with one of the flags below)" },
    { "context_frames", OPT_INT, AT(context_frames), .value = "N", .least = 5, .most = 100000,
      .commands = ALL, .marks = NUMBERS, .help = "frames of a window (default 81)" },
    { "context_stride", OPT_INT, AT(context_stride), .value = "N", .least = 1, .most = 100000,
      .commands = ALL, .marks = NUMBERS,
      .help = "of uniform windows: up to 7 only successive frames, from 8 on also each second "
              "latent frame, from 12 on each fourth, ... (default 4)" },
    { "context_overlap", OPT_INT, AT(context_overlap), .value = "N", .least = 0, .most = 100000,
      .commands = ALL, .marks = NUMBERS,
      .help = "frames that a window has in common with the next (default 16)" },
    { "context_fuse", OPT_CHOICE, AT(context_fuse), .alias = "fuse_method",
      .choices = "linear|pyramid", .commands = ALL, .marks = NUMBERS,
      .help = "weights of a window's frames: linear falls in the overlap, pyramid from the middle "
              "on (default linear)" },

    { "ckpt_dir", OPT_STRING, AT(ckpt_dir), .group = "Model", .value = "DIR", .commands = ALL,
      .marks = JOB,
      .help = "checkpoint: an official folder, a -Diffusers folder, a folder of ComfyUI's files, "
              "one in "
              "Hugging Face's cache, or the transformer's file (.safetensors, .gguf, .pth)" },
    { "dit", OPT_STRING, AT(dit), .value = "FILE", .commands = ALL, .marks = JOB,
      .help =
          "the transformer, instead of that of --ckpt_dir, or without --ckpt_dir: then the other "
          "parts are searched around it" },
    { "t5", OPT_STRING, AT(t5), .value = "FILE", .commands = ALL, .marks = JOB,
      .help = "the text encoder, instead of that of --ckpt_dir" },
    { "vae", OPT_STRING, AT(vae), .value = "FILE", .commands = ALL, .marks = JOB,
      .help = "the VAE" },
    { "clip", OPT_STRING, AT(clip), .value = "FILE", .commands = ALL, .marks = JOB,
      .help = "the image encoder" },
    { "wav2vec2", OPT_STRING, AT(wav2vec2), .value = "FILE", .commands = ALL, .marks = JOB,
      .help = "the audio encoder" },
    { "motion_controller", OPT_STRING, AT(motion_controller), .value = "FILE", .commands = ALL,
      .marks = JOB, .help = "DiffSynth's motion controller, for --motion_bucket_id" },
    { "dit_high", OPT_STRING, AT(dit_high), .value = "FILE", .commands = ALL, .marks = JOB,
      .help = "the expert for high noise; the same as --dit" },
    { "dit_low", OPT_STRING, AT(dit_low), .value = "FILE", .commands = ALL, .marks = JOB,
      .help = "the expert for low noise" },
    { "lora", OPT_LIST, AT(lora), .value = "FILE[:X]", .commands = ALL, .marks = JOB,
      .help = "merge a LoRA, of any common dialect, into the transformer's weights when they are "
              "loaded, with strength X (default 1); can be given several times. With two experts "
              "it is for both" },
    { "lora_high", OPT_LIST, AT(lora_high), .value = "FILE[:X]", .commands = ALL, .marks = JOB,
      .help = "the same for the expert for high noise alone" },
    { "lora_low", OPT_LIST, AT(lora_low), .value = "FILE[:X]", .commands = ALL, .marks = JOB,
      .help = "the same for the expert for low noise alone" },
    { "lora_ignore_unknown", OPT_SWITCH, AT(lora_ignore_unknown), .commands = ALL, .marks = JOB,
      .help = "leave out keys of a LoRA that match no tensor (default: they are an error)" },
    { "precision", OPT_CHOICE, AT(precision), .choices = "fp32|bf16", .commands = ALL,
      .marks = NUMBERS | JOB,
      .help = "data type of the computation; bf16 rounds where the official program does (default: "
              "bf16 on GPUs, else fp32)" },
    { "vae_precision", OPT_CHOICE, AT(vae_precision), .choices = VAE_PRECISIONS, .commands = ALL,
      .marks = NUMBERS | JOB,
      .help =
          "data type of the VAE (default: tf32 on GPUs, as in the official program there, else "
          "fp32). "
          "tf32 rounds what convolutions multiply to 10 bits of mantissa; on GPUs bf16 takes two "
          "thirds of its time and memory, fp32 twice" },
    { "matmul", OPT_CHOICE, AT(matmul), .choices = "exact|fp8", .commands = ALL,
      .marks = NUMBERS | JOB,
      .help =
          "products of the transformer's blocks: exact as --precision says; fp8 with weights and "
          "activations of 8 bits (e4m3), one scale per row of each: half the memory of the "
          "weights, 1.2 times as fast a forward on an H100, and another video: a forward is ten "
          "times as far from fp32 as in bf16, 4 % instead of 0.4 % (default exact)" },
    { "matmul_bf16_blocks", OPT_INT, AT(matmul_bf16_blocks), .value = "N", .least = 0, .most = 1000,
      .commands = ALL, .marks = NUMBERS | JOB,
      .help = "for --matmul fp8: the first N and the last N blocks stay as --precision says "
              "(default 3, of fewer than 12 blocks a quarter)" },
    { "attention", OPT_CHOICE, AT(attention), .choices = "exact|8bit", .commands = ALL,
      .marks = NUMBERS,
      .help = "8bit: self attention in 8-bit integers, 1.3 times as fast on an H100; lossy, with a "
              "relative error of 1.9e-2 on normal numbers (default exact)" },
    { "attention_exact_steps", OPT_PAIR, AT(attention_exact_steps), .value = "FIRST,LAST",
      .joint = ',', .commands = ALL, .least = 0, .most = 1000, .marks = NUMBERS,
      .help = "with --attention 8bit: numbers of steps at the start and at the end in which it "
              "stays exact (default: a tenth of the steps each, at least one)" },
    { "attention_exact_blocks", OPT_PAIR, AT(attention_exact_blocks), .value = "FIRST,LAST",
      .joint = ',', .commands = ALL, .least = 0, .most = 1000, .marks = NUMBERS,
      .help = "with --attention 8bit: numbers of the transformer's first and last blocks in which "
              "it stays exact (default 2,2)" },
    { "vsa_sparsity", OPT_DOUBLE, AT(vsa_sparsity), .value = "X", .least = 0, .most = 1,
      .commands = ALL, .marks = NUMBERS,
      .help =
          "for FastWan's weights with video sparse attention: the share of the tiles of 4 x 4 x "
          "4 tokens that a tile does not attend to (default as trained: 0.9 with 40 blocks, "
          "else 0.8). plan without --ckpt_dir plans for such weights" },
    { "sla_topk", OPT_DOUBLE, AT(sla_topk), .value = "X", .least = 0, .most = 1, .commands = ALL,
      .marks = NUMBERS,
      .help = "for TurboWan's weights with sparse-linear attention: the share of the blocks of 128 "
              "keys that a block of 64 queries attends to (default 0.1; its authors recommend 0.15 "
              "for quality). plan without --ckpt_dir plans for such weights" },
    { "offload_model", OPT_BOOL, AT(offload_model), .value = "True|False", .commands = ALL,
      .marks = JOB,
      .help =
          "True frees the transformer before decoding, and loads it again for the next request; "
          "for batch, which keeps it by default (generate always frees it)" },
    { "convert_model_dtype", OPT_SWITCH, AT(convert_model_dtype), .commands = ALL, .marks = JOB,
      .help = "official flag, the same as --precision bf16" },
    { "t5_cpu", OPT_SWITCH, AT(t5_cpu), .commands = ALL, .marks = JOB,
      .help = "run the text encoder on rank 0's CPU, not on its GPU" },

    { "groups", OPT_INT, AT(groups),
      .group = "Ranks (cfg_size * ring_size * ulysses_size = number of ranks; sizes left out are "
               "chosen)",
      .value = "G", .least = 1, .most = 65536, .commands = CMD_BATCH | CMD_PLAN,
      .help = "divide the ranks of a batch into G groups of equal size, each of which makes one "
              "video at a time; the sizes below are those of a group (default 1; plan says which "
              "G gives the most videos per hour)" },
    { "cfg_size", OPT_INT, AT(cfg_size), .value = "N", .least = 1, .most = 2, .commands = ALL,
      .marks = JOB, .help = "2 computes the two CFG branches on different ranks" },
    { "ring_size", OPT_INT, AT(ring_size), .value = "N", .least = 1, .commands = ALL, .marks = JOB,
      .help = "ring attention: number of slices of the sequence; keys and values pass from rank to "
              "rank" },
    { "ulysses_size", OPT_INT, AT(ulysses_size), .value = "N", .least = 1, .commands = ALL,
      .marks = JOB,
      .help = "Ulysses attention: number of slices of the sequence; an all-to-all gives each rank "
              "all tokens of some heads" },
    { "dit_fsdp", OPT_SWITCH, AT(dit_fsdp), .commands = ALL, .marks = JOB,
      .help = "shard the transformer's weights over the ranks (default: only if they do not fit)" },
    { "experts", OPT_CHOICE, AT(experts), .choices = "both|ahead|later", .commands = ALL,
      .marks = JOB,
      .help = "of two experts keep both in the device's memory; or one, while the other is read "
              "ahead into the host's; or one, and read the other later, when it is needed "
              "(default: both where they fit, else ahead on GPUs, else later)" },
    { "vram_limit", OPT_DOUBLE, AT(vram_limit), .value = "GB", .least = 0.001, .most = 100000,
      .commands = ALL, .marks = JOB,
      .help = "use at most so much memory of each GPU, in GB of 10^9 bytes: blocks of the "
              "transformer that do not fit stay in pinned host memory and are copied to the GPU "
              "while it computes with others; the video is the same (default: what is free)" },
    { "vram_buffer", OPT_DOUBLE, AT(vram_buffer), .value = "GB", .least = 0, .most = 100000,
      .commands = ALL, .marks = JOB, .help = "memory of --vram_limit to leave free (default 0)" },
    { "num_persistent_param_in_dit", OPT_I64, AT(num_persistent_param_in_dit), .value = "N",
      .least = 0, .most = 1e15, .commands = ALL, .marks = JOB,
      .help = "number of the transformer's parameters that stay on the GPU, rounded down to whole "
              "blocks (default: as many as fit)" },
    { "offload_device", OPT_CHOICE, AT(offload_device), .choices = "cpu|disk", .commands = ALL,
      .marks = JOB,
      .help = "where the other blocks are: cpu in pinned host memory, once for all ranks of a "
              "node; disk in their file, which is read in every forward (default: cpu where they "
              "fit, else disk)" },
    { "weight_storage", OPT_CHOICE, AT(weight_storage), .alias = "weights",
      .choices = "bf16|stored", .commands = ALL, .marks = JOB,
      .help = "how the transformer's blocks are kept in memory; also --weights: stored keeps their "
              "matrices as they are in the file (GGUF, fp8, int8), and expands a block when it is "
              "needed; the video is the same (default bf16: as they are computed with)" },
    { "t5_fsdp", OPT_SWITCH, AT(t5_fsdp), .commands = ALL, .marks = JOB,
      .help = "shard the text encoder's weights over the ranks, which all encode (default: rank 0 "
              "encodes, and streams the weights from the file)" },
    { "device", OPT_CHOICE, AT(device), .choices = "auto|cpu|cuda", .commands = ALL, .marks = JOB,
      .help = "auto: GPUs, one per rank, if there are any, else the CPU (default auto)" },
    { "threads", OPT_INT, AT(threads), .value = "N", .least = 1, .most = 4096, .commands = ALL,
      .marks = JOB,
      .help = "CPU threads per rank (default: the node's cores divided by its ranks)" },
    { "check_finite", OPT_SWITCH, AT(check_finite), .commands = ALL,
      .help =
          "name the first block that computes NaN or infinity; without it only the step is named" },
    { "timeout", OPT_INT, AT(timeout_s), .value = "SECONDS", .least = 1, .most = 1000000,
      .commands = ALL, .marks = JOB,
      .help = "a rank that shows no sign of life for so long ends the job (default 120)" },
    { "ops", OPT_CHOICE, AT(ops), .choices = "ref|cpu", .commands = ALL, .marks = JOB,
      .help = "CPU kernels: cpu is fast, ref is the slow reference for comparison (default cpu)" },

    { "tiled", OPT_SWITCH, AT(tiled), .group = "Decoding", .commands = ALL, .marks = PIXELS,
      .help = "decode in overlapping tiles: less memory, slightly different pixels" },
    { "tile_size", OPT_PAIR, AT(tile_size), .value = "ROWS,COLUMNS", .joint = ',', .commands = ALL,
      .marks = PIXELS,
      .help = "size of a tile in rows and columns of the latent, 8 pixels each (default 30,52)" },
    { "tile_stride", OPT_PAIR, AT(tile_stride), .value = "ROWS,COLUMNS", .joint = ',',
      .commands = ALL, .marks = PIXELS,
      .help = "distance from tile to tile, in the same unit (default 15,26)" },

    { "tiled_encode", OPT_SWITCH, AT(tiled_encode), .commands = ALL, .marks = NUMBERS,
      .help =
          "encode images and clips in such tiles, too, as DiffSynth does with tiled: less memory, "
          "another latent" },

    { "save_file", OPT_STRING, AT(save_file), .group = "Output", .value = "FILE", .commands = ONE,
      .help = ".mp4, or .png for one frame (default: a name made of task, size, "
              "ranks, prompt and time)" },
    { "fps", OPT_DOUBLE, AT(fps), .value = "X", .least = 0.1, .most = 1000, .commands = ALL,
      .marks = VIDEO | PIXELS, .help = "frames per second (default 16)" },
    { "quality", OPT_DOUBLE, AT(quality), .value = "X", .least = 0, .most = 10, .commands = ALL,
      .marks = VIDEO | PIXELS, .help = "quality of the H.264 video, 0 to 10 (default 8)" },
    { "contact_sheet", OPT_STRING, AT(contact_sheet), .value = "FILE.png", .commands = ONE,
      .help = "also write an image with up to 16 of the frames" },
    { "run_file", OPT_STRING, AT(run_file), .value = "FILE.h5", .commands = ONE,
      .help = "keep the state of the run in this HDF5 file; the same command with it goes on" },
    { "save_every", OPT_INT, AT(save_every), .value = "K", .least = 1, .commands = ALL,
      .help = "update the run file after every K steps (default 5)" },
    { "keep_frames", OPT_SWITCH, AT(keep_frames), .commands = ALL,
      .help = "also store the decoded frames in the run file" },
    { "resume", OPT_STRING, AT(resume), .value = "FILE.h5", .commands = CMD_GENERATE,
      .help =
          "continue the run of a run file, on any number of ranks; the request is read from it" },

    IMAGE(image, "input_image", "the image to start from, or a clip, for its first frame"),
    IMAGE(first_frame, NULL, "the same for FLF2V, under its official name"),
    IMAGE(last_frame, "end_image", "the image of the last frame, or a clip, for its first frame"),

    IMAGE(reference_image, NULL,
          "Fun Control V1.1: an image of who or what the video shows, stretched to its size"),
    CLIP(control_video,
         "Fun Control: the clip that controls the motion (poses, depth, edges, ...); "
         "its first frames, cut to the aspect of --size"),
    { "motion_bucket_id", OPT_INT, AT(motion_bucket_id), .value = "N", .least = 0, .most = 1000,
      .commands = ALL, .marks = NUMBERS,
      .help = "with --motion_controller: how fast things move, 0 (slow) to 100 (fast) as it was "
              "trained (default: without it)" },
    { "fun_official", OPT_SWITCH, AT(fun_official), .commands = ALL, .marks = NUMBERS,
      .help = "Fun Control as in VideoX-Fun, the models' own program, where DiffSynth differs: a "
              "missing --reference_image becomes tokens of zeros, and --image is encoded alone; "
              "with Wan2.2's models it is used, with --last_frame, which DiffSynth does not do" },
    { "camera_control_direction", OPT_CHOICE, AT(camera_control_direction),
      .choices = CAMERA_DIRECTIONS, .commands = ONE, .marks = INPUT_MARK(camera_control_direction),
      .help = "Fun Camera: where the camera moves" },
    { "camera_control_speed", OPT_DOUBLE, AT(camera_control_speed), .value = "X", .least = 0,
      .most = 1e6, .commands = ONE, .marks = NUMBERS,
      .help = "Fun Camera: how far per frame (default 1/54; DiffSynth's examples have 0.01)" },
    { "camera_control_origin", OPT_NUMBERS, AT(camera_control_origin), .value = "X,X,...",
      .joint = ',', .least = -1e6, .most = 1e6, .commands = ONE, .marks = NUMBERS,
      .help = "Fun Camera: the pose of the first frame, 19 numbers as in a line of "
              "RealEstate10K: time, fx, fy, cx, cy, 0, 0, and the 3 x 4 matrix from the world to "
              "the camera (default DiffSynth's)" },
    { "control_camera_txt", OPT_STRING, AT(input[INPUT_control_camera_txt]), .value = "FILE",
      .commands = ONE, .marks = INPUT_MARK(control_camera_txt),
      .help = "Fun Camera: a file of such poses, one line per frame after a title, as VideoX-Fun "
              "takes it" },
    CLIP(input_video, "video to video, with any task: the clip to start from; its first frames, "
                      "cut to the aspect of --size"),
    { "denoising_strength", OPT_DOUBLE, AT(denoising_strength), .value = "X", .least = 0, .most = 1,
      .commands = ALL, .marks = NUMBERS,
      .help = "of --input_video: how much noise it gets, from 0 (the clip as it is) to 1 (only "
              "noise), as in DiffSynth; all steps are then computed from there (default 1)" },

    CLIP(src_video, "VACE: the clip to edit, or that controls the video, such as poses; the video "
                    "gets its aspect and length"),
    CLIP(src_mask, "VACE: a clip, white where --src_video is repainted and black where it is kept"),
    { "ref_image", OPT_STRING, AT(input[INPUT_ref_image]), .value = "FILE,...", .commands = ONE,
      .marks = INPUT_MARK(ref_image),
      .help = "Phantom: images of the persons and things that the video shows, 1 to 4" },
    { "src_ref_images", OPT_STRING, AT(input[INPUT_src_ref_images]), .value = "FILE,...",
      .commands = ONE, .marks = INPUT_MARK(src_ref_images),
      .help = "VACE: images of what the video shows, such as persons and things" },
    CLIP(vace_video, "the same as DiffSynth takes it: the first --frame_num frames, cut to the "
                     "aspect of --size"),
    CLIP(vace_video_mask, "the same for the mask, which may be grey, and may be without a clip"),
    { "vace_reference_image", OPT_STRING, AT(input[INPUT_vace_reference_image]),
      .value = "FILE,...", .commands = ONE, .marks = INPUT_MARK(vace_reference_image),
      .help = "the same for references, which are stretched to --size" },
    { "vace_scale", OPT_DOUBLE, AT(vace_scale), .value = "X", .least = 0, .most = 100,
      .commands = ALL, .marks = INPUT_MARK(vace_scale),
      .help = "VACE: how much these control the video; 0: not at all (default 1)" },

    { "audio", OPT_STRING, AT(input[INPUT_audio]), .value = "FILE", .commands = ONE,
      .marks = INPUT_MARK(audio),
      .help =
          "S2V: the sound that moves the picture, of any format that FFmpeg reads; the video is "
          "as long as it is and gets it" },
    CLIP(pose_video, "S2V: a video of poses that are followed, 16 frames of it a second"),
    { "num_clip", OPT_INT, AT(num_clip), .value = "N", .least = 1, .most = 100000, .commands = ALL,
      .marks = INPUT_MARK(num_clip),
      .help = "S2V: at most N clips, each of which continues the one before (default: as many as "
              "the sound needs)" },
    { "infer_frames", OPT_INT, AT(infer_frames), .value = "N", .least = 4, .most = 1000,
      .commands = ALL, .marks = INPUT_MARK(infer_frames),
      .help = "S2V: number of frames of a clip, a multiple of 4 (default 80)" },
    { "start_from_ref", OPT_SWITCH, AT(start_from_ref), .commands = ALL,
      .marks = INPUT_MARK(start_from_ref),
      .help =
          "S2V: the first clip continues the image (default: the image is only what it shows)" },

    // inputs that no task of this version uses: hidden
    INPUT(tts_prompt_audio, "the voice that speech is made with"),
    INPUT(tts_prompt_text, "what that voice says"),
    INPUT(tts_text, "the speech"),
    { "enable_tts", OPT_SWITCH, AT(enable_tts), .commands = ONE, .hidden = true,
      .marks = INPUT_MARK(enable_tts), .help = "make the speech from a text" },
    { "use_prompt_extend", OPT_SWITCH, AT(use_prompt_extend), .commands = ONE, .hidden = true,
      .marks = INPUT_MARK(use_prompt_extend), .help = "rewrite the prompt" },
    { "weights", OPT_STRING, AT(weights), .commands = CMD_RECORD, .hidden = true, .marks = PIXELS,
      .help = "digests of the weights that made a result" },
    { "media", OPT_STRING, AT(media), .commands = CMD_RECORD, .hidden = true, .marks = NUMBERS,
      .help = "sizes and digests of the images that are the request's inputs" },
    { "cache_table", OPT_STRING, AT(cache_table), .commands = CMD_RECORD, .hidden = true,
      .marks = NUMBERS, .help = "the ratios of --cache_ratios" },
    { "decoded", OPT_STRING, AT(decoded), .commands = CMD_RECORD, .hidden = true,
      .help = "how a result was decoded, if not as requested" },
    INPUT(prompt_extend_method, "method of --use_prompt_extend"),
    INPUT(prompt_extend_model, "model of --use_prompt_extend"),
    INPUT(prompt_extend_target_lang, "language of the rewritten prompt"),
};

const int request_row_count = COUNT(request_rows);

_Static_assert(COUNT(request_rows) <= OPTIONS_MAX, "request.given has an entry for each row");
_Static_assert((int)SOLVER_UNIPC == 0 && (int)SOLVER_DPMPP == 1 && (int)SOLVER_EULER == 2 &&
                   (int)SOLVER_RENOISE == 3,
               "the order of --sample_solver's choices");
_Static_assert((int)CACHE_OFF == 0 && (int)CACHE_MAG == 1 && (int)CACHE_TEA == 2 &&
                   (int)CACHE_EASY == 3 && (int)CACHE_FIRST_BLOCK == 4,
               "the order of --cache's choices");
_Static_assert((int)NOISE_CPU == 0 && (int)NOISE_CUDA == 1, "the order of --rand_device's choices");
