/* Requests from flags, JSON and batch lines: defaults, refused values, and the text of errors. */
#include "launch/request.h"
#include "runtime/device.h"
#include "tests/scratch.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define WORDS_MAX 32

/* Parses flags that are given as one string, separated by '|'. */
static status parse(struct request *r, unsigned command, const char *flags)
{
    char text[1024], *words[WORDS_MAX], *rest = text;
    int n = 0;

    snprintf(text, sizeof(text), "%s", flags);
    request_init(r);
    for (char *word = strsep(&rest, "|"); word != NULL && n < WORDS_MAX;
         word = strsep(&rest, "|")) {
        if (word[0] != 0)
            words[n++] = word;
    }
    return request_parse(r, command, NULL, 0, n, words);
}

static status complete(struct request *r, const char *flags)
{
    TRY(parse(r, CMD_GENERATE, flags));
    return request_complete(r, CMD_GENERATE);
}

static void refuse(const char *flags, const char *line)
{
    struct request r;
    const status st = complete(&r, flags);

    CHECK(st == ST_USAGE && strstr(status_line(), line) != NULL, "%s: %d, %s", flags, st,
          status_line());
    CHECK(strchr(status_line(), '\n') == NULL, "%s", status_line());
    request_done(&r);
}

static void test_defaults(void)
{
    struct request r;

    CHECK(complete(&r, "--ckpt_dir|X") == ST_OK, "%s", status_line());
    CHECK(strcmp(r.task_name, "t2v-14B") == 0 && r.size[0] == 1280 && r.size[1] == 720, "task");
    CHECK(r.frame_num == 81 && r.sample_steps == 50 && r.sample_shift == 5 &&
              r.sample_guide_scale[0] == 5 && r.sample_guide_scale[1] == 5 &&
              r.sample_solver == SOLVER_UNIPC,
          "sampling");
    CHECK(r.base_seed.given && r.fps == 16 && r.quality == 8 &&
              r.precision == (device_cuda_count() > 0 ? PRECISION_BF16 : PRECISION_FP32),
          "output");
    CHECK(strncmp(r.prompt, "Two anthropomorphic cats", 24) == 0, "%s", r.prompt);
    CHECK(strncmp(r.negative_prompt, "色调艳丽，", 15) == 0, "%s", r.negative_prompt);
    CHECK(r.cfg_size == 0 && r.threads == 0 && r.dit_fsdp == -1 && request_note(&r, 0) == NULL,
          "left to the plan");
    request_done(&r);
    CHECK(complete(&r, "--task|t2v-1.3B|--ckpt_dir|X") == ST_OK, "%s", status_line());
    CHECK(r.size[0] == 832 && r.size[1] == 480, "size");
    request_done(&r);
    CHECK(complete(&r, "--task|t2i-14B|--ckpt_dir|X|--size|1024*1024") == ST_OK, "%s",
          status_line());
    CHECK(r.frame_num == 1 && r.task->image && request_note(&r, 0) == NULL, "image");
    request_done(&r);
}

/* The device, and the defaults that depend on it; `auto` depends on the machine. */
static void test_device(void)
{
    struct request r;

    CHECK(complete(&r, "--ckpt_dir|X|--device|cpu") == ST_OK, "%s", status_line());
    CHECK(r.device == USE_CPU && r.precision == PRECISION_FP32, "cpu");
    request_done(&r);
    CHECK(complete(&r, "--ckpt_dir|X|--device|cuda") == ST_OK, "%s", status_line());
    CHECK(r.device == USE_CUDA && r.precision == PRECISION_BF16, "cuda");
    request_done(&r);
    CHECK(complete(&r, "--ckpt_dir|X|--ops|ref") == ST_OK, "%s", status_line());
    CHECK(r.device == USE_CPU && r.precision == PRECISION_FP32, "--ops is of the CPU");
    request_done(&r);
    CHECK(complete(&r, "--ckpt_dir|X") == ST_OK, "%s", status_line());
    CHECK(r.device == (device_cuda_count() > 0 ? USE_CUDA : USE_CPU), "auto");
    request_done(&r);
    refuse("--ckpt_dir|X|--device|cuda|--ops|ref", "--ops is for --device cpu");
    refuse("--ckpt_dir|X|--device|tpu", "auto, cpu");
}

static void test_flags(void)
{
    struct request r;

    CHECK(complete(&r, "--task=t2v-1.3B|--ckpt-dir=X|--size|128x96|--frame-num|5|--base_seed|-1|"
                       "--sample_solver|dpm++|--offload_model|True|--t5_cpu|--dit_fsdp|"
                       "--ulysses-size=4|--prompt=a=b --c|--sample_guide_scale|6.5") == ST_OK,
          "%s", status_line());
    CHECK(r.size[0] == 128 && r.size[1] == 96 && r.frame_num == 5, "shape");
    CHECK(r.sample_solver == SOLVER_DPMPP && r.offload_model == 1 && r.t5_cpu == 1 &&
              r.dit_fsdp == 1 && r.ulysses_size == 4 && r.sample_guide_scale[1] == 6.5,
          "values");
    CHECK(strcmp(r.prompt, "a=b --c") == 0, "%s", r.prompt);
    CHECK(request_note(&r, 0) != NULL && strstr(request_note(&r, 0), "832*480") != NULL, "note");
    request_done(&r);
    CHECK(complete(&r, "--ckpt_dir|X|--dit_fsdp=False|--base_seed|9007199254740993") == ST_OK, "%s",
          status_line());
    CHECK(r.dit_fsdp == 0 && r.base_seed.value == 9007199254740993, "exact seed");
    request_done(&r);
    CHECK(complete(&r, "--ckpt_dir|X|--negative_prompt|") != ST_OK, "no value");
    request_done(&r);
    CHECK(complete(&r, "--ckpt_dir|X|--n_prompt=") == ST_OK, "%s", status_line());
    CHECK(strlen(r.negative_prompt) > 100 &&
              strstr(request_note(&r, 0), "the negative prompt is empty") != NULL &&
              request_note(&r, 1) == NULL,
          "empty means default, as in the official pipeline");
    request_done(&r);
    CHECK(complete(&r, "--ckpt_dir|X|--size|128*96|--tiled|--tile_size|8,8|--tile_stride|4,8") ==
              ST_OK,
          "%s", status_line());
    CHECK(strstr(request_note(&r, 0), "128*96") != NULL &&
              strstr(request_note(&r, 1), "tiles do not overlap") != NULL &&
              request_note(&r, 2) == NULL,
          "two notes");
    request_done(&r);
    CHECK(parse(&r, CMD_BATCH, "jobs.jsonl|--ckpt_dir|X") == ST_OK, "%s", status_line());
    CHECK(strcmp(r.batch_file, "jobs.jsonl") == 0, "%s", r.batch_file);
    request_done(&r);
    CHECK(parse(&r, CMD_PLAN, "--task|t2v-14B|--prompt|x") == ST_OK &&
              request_complete(&r, CMD_PLAN) == ST_OK,
          "a plan needs no checkpoint: %s", status_line());
    request_done(&r);
}

static void test_refused(void)
{
    struct request r;

    refuse("", "--ckpt_dir DIR is needed");
    refuse("--sampel_steps|5", "has no flag --sampel_steps; did you mean --sample_steps?");
    refuse("--sample-step|5", "did you mean --sample_steps?");
    refuse("--ulysses|4", "did you mean --ulysses_size?");
    refuse("--wibble|5", "generate has no flag --wibble; see wanmpi generate --help");
    refuse("--size", "--size needs a value: W*H");
    refuse("--size|--frame_num", "--size needs a value");
    refuse("--size|1280", "write W*H");
    refuse("--size|12a*7", "two whole numbers");
    refuse("--size|0*16", "two whole numbers");
    refuse("--size|100*100", "multiples of 16; try 96*96");
    refuse("--frame_num|80", "must be 4n+1; try 77 or 81");
    refuse("--frame_num|0", "--frame_num 0: must be at least 1");
    refuse("--frame_num|4x", "expected a whole number");
    refuse("--sample_steps|99999999999999999999", "expected a whole number");
    refuse("--base_seed|18446744073709551616", "0 to 2^64-1, or -1");
    refuse("--base_seed|-2", "0 to 2^64-1, or -1");
    refuse("--base_seed|7x", "0 to 2^64-1, or -1");
    refuse("--sample_solver|ddim", "choose unipc, dpm++, euler or renoise");
    refuse("--sample_guide_scale|nan", "expected a number");
    refuse("--sample_guide_scale|3,x", "expected a number");
    refuse("--sample_guide_scale|3,-1", "must be 0 to 1000");
    refuse("--sample_guide_scale|3,4,5", "expected a number");
    refuse("--ckpt_dir|X|--sample_guide_scale|3,4", "t2v-14B has one transformer: pass one number");
    refuse("--ckpt_dir|X|--experts|both", "t2v-14B has one transformer; remove it");
    refuse("--ckpt_dir|X|--dit_low|Y", "--dit_low: task t2v-14B has one transformer; remove it");
    refuse("--experts|one", "choose both, ahead or later");
    refuse("--sample_shift|0", "must be");
    refuse("--quality|11", "must be 0 to 10");
    refuse("--offload_model|maybe", "expected True or False");
    refuse("--task|t2v-13B", "did you mean t2v-1.3B?");
    refuse("--task|animate-14B",
           "this version does not run it; it runs t2v-1.3B, t2v-14B, t2i-14B");
    refuse("--task|i2v-A14B", "task i2v-A14B needs --image");
    refuse("--image|a.png",
           "--image: task t2v-14B does not use it; remove it, or use --task i2v-14B");
    refuse("--last_frame|a.png", "--last_frame: task t2v-14B does not use it; remove it, or use "
                                 "--task flf2v-14B");
    refuse("--prompt_extend_method|a",
           "--prompt_extend_method: task t2v-14B does not use it; remove it (no task of this");
    refuse("--use_prompt_extend", "--use_prompt_extend: task t2v-14B does not use it");
    refuse("--prompt|Two|cats", "unexpected argument 'cats'; put quotes around a text of several");
    refuse("-n|4", "flags start with two dashes");
    refuse("--ckpt_dir|X|--convert_model_dtype|--precision|fp32", "is --precision bf16");
    refuse("--ckpt_dir|X|--matmul|fp4", "--matmul fp4: choose exact or fp8");
    refuse("--ckpt_dir|X|--matmul_bf16_blocks|2", "--matmul_bf16_blocks is for --matmul fp8");
    refuse("--ckpt_dir|X|--cuda_sms|78", "--cuda_sms is for --rand_device cuda");
    refuse("--ckpt_dir|X|--tile_size|8,8", "need --tiled");
    refuse("--ckpt_dir|X|--tiled|--tile_stride|40,40", "larger than --tile_size");
    refuse("--ckpt_dir|X|--keep_frames", "needs --run_file");
    refuse("--ckpt_dir|X|--save_file|a.avi", "a.avi: results are written as .mp4");
    refuse("--ckpt_dir|X|--save_file|a.png", "a .png holds one frame, not 81");
    refuse("--ckpt_dir|X|--contact_sheet|a.jpg", "must end in .png");
    refuse("--ckpt_dir|X|--task|t2i-14B|--frame_num|5", "makes one image");
    refuse("--ckpt_dir|X|--task|t2i-14B|--fps|8", "--fps: task t2i-14B makes an image");
    CHECK(parse(&r, CMD_BATCH, "a.jsonl|--save_file|x.mp4") == ST_USAGE &&
              strstr(status_line(), "batch does not use --save_file") != NULL,
          "%s", status_line());
    request_done(&r);
}

/* Lists of steps, presets, and experts by step or boundary. */
static void test_steps(void)
{
    char many[700] = "--ckpt_dir|X|--denoising_steps|1000";
    struct request r;
    struct schedule s;
    char text[400];

    refuse("--denoising_steps=", "expected numbers with a comma between them");
    refuse("--denoising_steps|1000,", "expected numbers with a comma between them");
    refuse("--denoising_steps|1000,x", "expected numbers with a comma between them");
    refuse("--denoising_steps|1200,500", "--denoising_steps 1200: must be 0 to 1000");
    refuse("--denoising_steps|500,-1", "--denoising_steps -1: must be 0 to 1000");
    refuse("--ckpt_dir|X|--denoising_steps|500,750",
           "step 2 is 750: each must be above 0 and below");
    refuse("--ckpt_dir|X|--denoising_steps|500,500", "step 2 is 500");
    refuse("--ckpt_dir|X|--denoising_steps|500,0,0", "step 2 is 0");
    refuse("--ckpt_dir|X|--denoising_steps|0", "falls from at most 1000 to a number above 0");
    for (int i = 999; i > 935; i--)
        snprintf(many + strlen(many), sizeof(many) - strlen(many), ",%d", i);
    refuse(many, "--denoising_steps: more than 64 numbers");
    refuse("--ckpt_dir|X|--denoising_steps|1000,500|--sample_steps|4", "--denoising_steps has 2");
    refuse("--ckpt_dir|X|--denoising_steps|1000,500|--sample_solver|unipc",
           "--denoising_steps needs --sample_solver euler or renoise, not unipc");
    refuse("--ckpt_dir|X|--denoising_steps|1000,500|--sigma_max|80", "remove one of them");
    refuse("--ckpt_dir|X|--sigma_max|80|--sample_steps|5", "are at most 4");
    refuse("--ckpt_dir|X|--sigma_max|80|--sample_shift|5", "--sample_shift is not used with");
    refuse("--ckpt_dir|X|--warp_denoising_step|False", "needs --denoising_steps");
    refuse("--ckpt_dir|X|--boundary|0.9", "--boundary: task t2v-14B has one transformer");
    refuse("--boundary|1.1", "must be 0 to 1");
    refuse("--ckpt_dir|X|--task|t2v-A14B|--boundary|0.9|--boundary_step_index|2", "remove one");
    refuse("--ckpt_dir|X|--task|t2v-A14B|--boundary_step_index|41", "there are 40 steps");
    refuse("--ckpt_dir|X|--preset|fastwan-4", "no such preset; did you mean fastwan-3?");
    refuse("--ckpt_dir|X|--preset|wibble", "no such preset; wanmpi generate --help lists them");
    refuse("--ckpt_dir|X|--preset|lightning-4",
           "is for models with two experts; that of task t2v-");
    refuse("--ckpt_dir|X|--task|t2v-A14B|--preset|fastwan-3", "is for models with one transformer");
    refuse("--ckpt_dir|X|--preset|fastwan-3|--sample_steps|5", "has a list of 3 steps; pass other");
    refuse("--ckpt_dir|X|--preset|turbowan-4|--sample_solver|unipc", "--sigma_max needs");

    CHECK(complete(&r, "--ckpt_dir|X|--preset|lightx2v-4|--sample_shift|3") == ST_OK, "%s",
          status_line());
    CHECK(r.sample_steps == 4 && r.sample_solver == SOLVER_EULER && r.sample_shift == 3 &&
              r.sample_guide_scale[0] == 1 && r.sample_guide_scale[1] == 1 &&
              r.boundary_step_index == -1 && request_prompts(&r) == 1,
          "lightx2v-4");
    CHECK(request_preset(text, sizeof(text), &r) == ST_OK &&
              strcmp(text, " --sample_steps 4 --sample_solver euler --sample_guide_scale 1") == 0,
          "%s", text);
    request_done(&r);
    CHECK(complete(&r, "--ckpt_dir|X|--preset|fastwan-3|--denoising_steps|1000,500.5,0") == ST_OK,
          "%s", status_line());
    CHECK(r.sample_steps == 2 && r.denoising_steps.value[1] == 500.5 &&
              r.warp_denoising_step == 0 && r.sample_solver == SOLVER_RENOISE,
          "a list for a preset");
    request_done(&r);
    CHECK(complete(&r, "--ckpt_dir|X|--task|t2v-A14B|--preset|lightx2v-4") == ST_OK, "%s",
          status_line());
    CHECK(request_schedule(&s, &r) == ST_OK && request_low_from(&r, &s) == 2, "two and two steps");
    schedule_done(&s);
    request_done(&r);
    CHECK(complete(&r, "--ckpt_dir|X|--task|t2v-A14B|--preset|lightx2v-4|--boundary|0.95") == ST_OK,
          "%s", status_line());
    CHECK(request_schedule(&s, &r) == ST_OK && request_low_from(&r, &s) == 1, "boundary as given");
    schedule_done(&s);
    request_done(&r);
    CHECK(complete(&r, "--ckpt_dir|X|--preset|turbowan-4|--noise|a.h5") == ST_OK, "%s",
          status_line());
    CHECK(r.base_seed.given && r.sample_steps == 4, "the seed of the noise that is added");
    request_done(&r);
    CHECK(complete(&r, "--ckpt_dir|X|--preset|lightx2v-4|--sample_guide_scale|5") == ST_OK, "%s",
          status_line());
    CHECK(r.sample_guide_scale[0] == 5 && request_prompts(&r) == 2 && request_note(&r, 0) != NULL &&
              strstr(request_note(&r, 0), "are for guidance 1") != NULL,
          "guidance as given");
    request_done(&r);
    CHECK(complete(&r, "--ckpt_dir|X|--sample_guide_scale|1|--negative_prompt|x|--size|1280*720") ==
              ST_OK,
          "%s", status_line());
    CHECK(request_note(&r, 0) != NULL && strstr(request_note(&r, 0), "is not used") != NULL,
          "the negative prompt of no branch");
    request_done(&r);
}

static void test_file_prompt(void)
{
    const char *const path = scratch_path("prompt");
    const int fd = open(path, O_WRONLY | O_CREAT, 0600);
    char flags[600];
    struct request r;

    CHECK(fd >= 0 && write(fd, "一只猫\nin boots\n\n", 19) == 19, "write");
    close(fd);
    snprintf(flags, sizeof(flags), "--ckpt_dir|X|--prompt|@%s", path);
    CHECK(complete(&r, flags) == ST_OK && strcmp(r.prompt, "一只猫\nin boots") == 0, "%s",
          r.prompt);
    request_done(&r);
    unlink(path);
    CHECK(request_from_json(&r, "{\"prompt\":\"@none\"}", "here") == ST_OK &&
              strcmp(r.prompt, "@none") == 0,
          "JSON names no files: %s", status_line());
    request_done(&r);
    CHECK(complete(&r, flags) == ST_IO && strstr(status_line(), path) != NULL, "%s", status_line());
    request_done(&r);
}

static void test_json(void)
{
    struct request r, back;
    char *text = NULL, *again = NULL;

    CHECK(complete(&r, "--ckpt_dir|X|--prompt|\"q\" \\ 猫|--size|64*32|--tiled|--sample_shift|"
                       "0.1|--base_seed|18446744073709551615|--dit_fsdp=False") == ST_OK,
          "%s", status_line());
    CHECK(request_to_json(&r, &text) == ST_OK, "%s", status_line());
    request_init(&back);
    CHECK(request_from_json(&back, text, "here") == ST_OK, "%s", status_line());
    CHECK(request_complete(&back, CMD_GENERATE) == ST_OK, "%s", status_line());
    CHECK(r.base_seed.value == UINT64_MAX && back.base_seed.value == UINT64_MAX &&
              back.sample_shift == 0.1 && back.dit_fsdp == 0 && back.tiled == 1 &&
              back.size[0] == 64 && back.threads == 0 && back.cfg_size == 0,
          "%s", text);
    CHECK(strcmp(back.prompt, r.prompt) == 0, "%s", back.prompt);
    CHECK(request_to_json(&back, &again) == ST_OK && strcmp(text, again) == 0, "%s", again);
    free(text);
    free(again);
    request_done(&back);
    request_done(&r);

    static const char *const bad[][2] = {
        { "{\"promt\":\"x\"}", "here: promt: no such key; did you mean prompt?" },
        { "{\"zzzzzz\":1}", "here: zzzzzz: no such key" },
        { "{\"frame_num\":\"5\"}", "here: frame_num: expected a number" },
        { "{\"frame_num\":5.5}", "a whole number" },
        { "{\"base_seed\":1e300}", "a whole number" },
        { "{\"tiled\":1}", "expected true or false" },
        { "{\"prompt\":1}", "expected a string" },
        { "{\"size\":\"9*\"}", "write W*H" },
        { "{\"batch_file\":\"x\"}", "no such key" },
        { "[1]", "a JSON object" },
        { "{\"prompt\":\"x\"", "not valid JSON at byte" },
        { "", "not valid JSON at byte" },
        { "{} x", "not valid JSON at byte" },
    };
    for (size_t i = 0; i < COUNT(bad); i++) {
        request_init(&back);
        CHECK(request_from_json(&back, bad[i][0], "here") == ST_USAGE &&
                  strstr(status_line(), bad[i][1]) != NULL,
              "%s: %s", bad[i][0], status_line());
        request_done(&back);
    }
}

static void test_lines(void)
{
    struct request job, r;

    CHECK(parse(&job, CMD_BATCH, "f|--task|t2v-1.3B|--ckpt_dir|X|--sample_steps|9") == ST_OK, "%s",
          status_line());
    CHECK(request_line(&r, &job, "{\"prompt\":\"a\",\"save_file\":\"a.mp4\",\"frame_num\":5}",
                       "f:1") == ST_OK,
          "%s", status_line());
    CHECK(r.sample_steps == 9 && r.frame_num == 5 && strcmp(r.ckpt_dir, "X") == 0 &&
              r.size[0] == 832 && strcmp(r.save_file, "a.mp4") == 0,
          "line");
    request_done(&r);
    CHECK(request_line(&r, &job, "{\"ckpt_dir\":\"X\"}", "f:2") == ST_OK, "%s", status_line());
    request_done(&r);
    CHECK(request_line(&r, &job, "{\"ckpt_dir\":\"Y\"}", "f:2") == ST_USAGE &&
              strcmp(status_line(), "f:2: ckpt_dir must be the same for all lines; pass --ckpt_dir "
                                    "to batch") == 0,
          "%s", status_line());
    request_done(&r);
    CHECK(request_line(&r, &job, "{\"frame_num\":4}", "f:3") == ST_USAGE &&
              strncmp(status_line(), "f:3: --frame_num 4", 18) == 0,
          "%s", status_line());
    request_done(&r);
    CHECK(request_line(&r, &job, "{\"resume\":\"a.h5\"}", "f:3") == ST_USAGE, "resume in a line");
    request_done(&r);
    request_done(&job);
}

static void test_resume(void)
{
    struct request r;
    char *text = NULL;

    CHECK(complete(&r, "--ckpt_dir|X|--prompt|a|--frame_num|5|--base_seed|7|--cfg_size|2|"
                       "--save_file|a.mp4|--run_file|old.h5") == ST_OK,
          "%s", status_line());
    CHECK(request_to_json(&r, &text) == ST_OK, "%s", status_line());
    request_done(&r);
    CHECK(parse(&r, CMD_GENERATE, "--resume|a.h5|--ring_size|3|--fps|24|--base_seed|7") == ST_OK,
          "%s", status_line());
    CHECK(request_resume(&r, text, "/jobs/1", "a.h5") == ST_OK, "%s", status_line());
    CHECK(strcmp(r.ckpt_dir, "/jobs/1/X") == 0 && strcmp(r.save_file, "/jobs/1/a.mp4") == 0 &&
              strcmp(r.task_name, "t2v-14B") == 0,
          "relative paths of another folder: %s", r.save_file);
    CHECK(strcmp(r.run_file, "a.h5") == 0, "the run file's own name: %s", r.run_file);
    request_done(&r);
    CHECK(parse(&r, CMD_GENERATE, "--resume|a.h5|--ring_size|3|--fps|24|--base_seed|7") == ST_OK,
          "%s", status_line());
    CHECK(request_resume(&r, text, NULL, "a.h5") == ST_OK, "%s", status_line());
    CHECK(r.base_seed.value == 7 && r.frame_num == 5 && strcmp(r.prompt, "a") == 0 &&
              strcmp(r.save_file, "a.mp4") == 0 && strcmp(r.resume, "a.h5") == 0,
          "values of the run file");
    CHECK(r.ring_size == 3 && r.cfg_size == 0 && r.fps == 24 && r.task != NULL,
          "values of the flags");
    request_done(&r);
    CHECK(parse(&r, CMD_GENERATE, "--resume|a.h5|--base_seed|8") == ST_OK, "%s", status_line());
    CHECK(request_resume(&r, text, NULL, "a.h5") == ST_USAGE &&
              strstr(status_line(), "--base_seed differs from the run in a.h5; remove it") != NULL,
          "%s", status_line());
    request_done(&r);
    free(text);
}

/* What files replace is not set, and so is not in the JSON that the result names. */
static void test_replaced(void)
{
    struct request r;
    char *text = NULL, *name = NULL;

    CHECK(complete(&r, "--ckpt_dir|X|--prompt|a|--base_seed|7|--text|d/t.h5|--noise|n.h5|--size|"
                       "832*480|--task|t2v-1.3B") == ST_OK,
          "%s", status_line());
    CHECK(strstr(request_note(&r, 0), "the prompts are not used") != NULL &&
              strstr(request_note(&r, 1), "the seed is not used") != NULL &&
              request_note(&r, 2) == NULL,
          "notes");
    CHECK(request_to_json(&r, &text) == ST_OK && strstr(text, "prompt\":") == NULL &&
              strstr(text, "base_seed") == NULL && strstr(text, "\"text\":\"d/t.h5\"") != NULL,
          "%s", text);
    CHECK(request_default_name(&r, 1, 1, 0, &name) == ST_OK &&
              strncmp(name, "t2v-1.3B_832*480_1_1_t.h5_", 26) == 0,
          "%s", name);
    request_done(&r);
    CHECK(parse(&r, CMD_GENERATE, "--resume|a.h5") == ST_OK, "%s", status_line());
    CHECK(request_resume(&r, text, NULL, "a.h5") == ST_OK && r.prompt == NULL && !r.base_seed.given,
          "%s", status_line());
    request_done(&r);
    free(name);
    free(text);
}

static void check_difference(const struct request *r, const char *text, bool pixels,
                             const char *want)
{
    const char *got = NULL;

    CHECK(request_difference(&got, r, text, "here", pixels) == ST_OK, "%s", status_line());
    CHECK(want == NULL ? got == NULL : got != NULL && strcmp(got, want) == 0, "%s, not %s", got,
          want);
}

static void test_difference(void)
{
    struct request r, other;
    const char *got = NULL;
    char *text = NULL;

    CHECK(complete(&r, "--ckpt_dir|X|--prompt|a|--fps|8") == ST_OK, "%s", status_line());
    CHECK(request_to_json(&r, &text) == ST_OK, "%s", status_line());
    check_difference(&r, text, true, NULL);
    CHECK(complete(&other, "--ckpt_dir|X|--prompt|a|--save_file|b.mp4|--threads|3") == ST_OK, "%s",
          status_line());
    check_difference(&other, text, false, NULL); // a drawn seed matches any
    check_difference(&other, text, true, "fps is 8 there and 16 here");
    request_done(&other);
    CHECK(complete(&other, "--ckpt_dir|X|--prompt|b|--fps|8") == ST_OK, "%s", status_line());
    check_difference(&other, text, true, "the prompt is another");
    request_done(&other);
    CHECK(complete(&other, "--ckpt_dir|X|--prompt|a|--noise|n.h5") == ST_OK, "%s", status_line());
    check_difference(&other, text, false, "noise is not given there and \"n.h5\" here");
    CHECK(request_difference(&got, &other, "{\"what\":1}", "here", false) == ST_USAGE,
          "no request");
    request_done(&other);
    free(text);
    CHECK(complete(&other, "--ckpt_dir|X|--prompt|a|--fps|8|--base_seed|7") == ST_OK, "%s",
          status_line());
    CHECK(request_to_json(&other, &text) == ST_OK, "%s", status_line());
    other.base_seed.value = 8;
    check_difference(&other, text, true, "base_seed is 7 there and 8 here");
    request_done(&other);
    request_done(&r);
    free(text);
}

static void test_names(void)
{
    struct request r;
    char *name = NULL;
    struct tm when = { .tm_year = 125, .tm_mon = 1, .tm_mday = 25, .tm_hour = 12, .tm_isdst = -1 };
    const time_t now = mktime(&when);

    CHECK(complete(&r, "--task|t2v-1.3B|--ckpt_dir|X") == ST_OK, "%s", status_line());
    CHECK(request_default_name(&r, 4, 2, now, &name) == ST_OK, "%s", status_line());
    // generate.py's f-string with these values
    CHECK(strcmp(name, "t2v-1.3B_832*480_4_2_Two_anthropomorphic_cats_in_comfy_boxing_gear_and_"
                       "_20250225_120000.mp4") == 0,
          "%s", name);
    free(name);
    request_done(&r);
    CHECK(complete(&r, "--task|t2i-14B|--ckpt_dir|X|--prompt|猫/ 一") == ST_OK, "%s",
          status_line());
    CHECK(request_default_name(&r, 1, 1, now, &name) == ST_OK, "%s", status_line());
    CHECK(strcmp(name, "t2i-14B_1280*720_1_1_猫__一_20250225_120000.png") == 0, "%s", name);
    free(name);
    request_done(&r);
}

/* --help lists the flags that the command uses, and no others. */
static void test_help(void)
{
    struct request r;
    const struct option_set set = request_options(&r);
    char *text = NULL;
    size_t bytes = 0;
    FILE *out = open_memstream(&text, &bytes);

    options_help(out, CMD_GENERATE, &set, 1);
    fclose(out);
    CHECK(strstr(text, "--sample_solver unipc|dpm++|euler") != NULL, "%s", text);
    CHECK(strstr(text, "--resume FILE.h5") != NULL && strstr(text, "--image FILE") != NULL &&
              strstr(text, "--prompt_extend_method") == NULL,
          "%s", text);
    CHECK(strstr(text, "FILE.jsonl") == NULL, "generate's help has the argument of batch");
    for (char *line = strtok(text, "\n"); line != NULL; line = strtok(NULL, "\n"))
        CHECK(strlen(line) <= 100, "%s", line);
    free(text);
}

/* What --fast sets: not what was given, and not where it is of no use; a line of a batch follows.
 */
static void test_fast(void)
{
    struct request r, line;
    char text[200];

    CHECK(complete(&r, "--ckpt_dir|X|--fast|balanced") == ST_OK, "%s", status_line());
    CHECK(r.cfg_gate[0] == 0.5 && request_guidance(&r).gate[0] == 25 && r.cache == CACHE_MAG &&
              r.cache_max_skip == 2 && r.matmul == MATMUL_EXACT,
          "balanced");
    request_fast(text, sizeof(text), &r);
    CHECK(strstr(text, " --cfg_gate 0.5") != NULL, "%s", text);
    CHECK(request_line(&line, &r, "{\"preset\": \"lightx2v-4\"}", "a:1") == ST_OK, "%s",
          status_line());
    CHECK(line.cfg_gate[0] < 0 && line.cache == CACHE_OFF, "a line without guidance");
    request_done(&line);
    CHECK(request_line(&line, &r, "{\"sample_steps\": 20}", "a:1") == ST_OK &&
              request_guidance(&line).gate[0] == 10,
          "a line with 20 steps");
    request_done(&line);
    CHECK(request_line(&line, &r, "{\"fast\": \"fastest\"}", "a:1") == ST_USAGE, "another");
    request_done(&line);
    request_done(&r);
    CHECK(complete(&r, "--ckpt_dir|X|--fast|fast|--cfg_gate|0.7") == ST_OK && r.cfg_gate[1] == 0.7,
          "a given gate");
    request_done(&r);
    CHECK(complete(&r, "--ckpt_dir|X|--fast|fastest") == ST_OK && r.cache_max_skip == 6 &&
              r.cache_threshold == 0.24,
          "fastest");
    request_done(&r);
    CHECK(complete(&r, "--ckpt_dir|X|--fast|fastest|--cache|easycache") == ST_OK &&
              r.cache_threshold == 0.05,
          "a given cache");
    request_done(&r);
    CHECK(complete(&r, "--ckpt_dir|X|--fast|fastest|--preset|lightx2v-4") == ST_OK &&
              r.cfg_gate[0] < 0,
          "without guidance");
    request_done(&r);
    CHECK(complete(&r, "--ckpt_dir|X|--fast|fast|--device|cuda") == ST_OK &&
              r.matmul == MATMUL_FP8 && r.attention == ATTENTION_8BIT &&
              r.attention_exact_steps[0] == 1 && r.attention_exact_steps[1] == 1,
          "on a GPU");
    r.layers = 4;
    CHECK(request_line(&line, &r, "{\"prompt\": \"A cat\"}", "a:1") == ST_OK &&
              line.matmul == MATMUL_FP8 && line.attention == ATTENTION_EXACT,
          "a transformer of 4 blocks");
    request_done(&line);
    r.layers = 40;
    CHECK(request_line(&line, &r, "{\"sample_steps\": 4}", "a:1") == ST_OK &&
              line.attention == ATTENTION_8BIT && line.attention_exact_steps[0] == 0 &&
              line.attention_exact_steps[1] == 0,
          "a line with 4 steps");
    request_done(&line);
    r.head_size = 64;
    CHECK(request_line(&line, &r, "{}", "a:1") == ST_OK && line.attention == ATTENTION_EXACT,
          "heads of 64");
    request_done(&line);
    request_done(&r);
    CHECK(complete(&r, "--ckpt_dir|X|--fast|fast|--device|cuda|--precision|fp32") == ST_OK &&
              r.attention == ATTENTION_EXACT,
          "in fp32");
    request_done(&r);
}

int main(void)
{
    if (!scratch_open("request"))
        return 1;
    test_defaults();
    test_device();
    test_flags();
    test_refused();
    test_steps();
    test_file_prompt();
    test_json();
    test_lines();
    test_resume();
    test_replaced();
    test_difference();
    test_names();
    test_help();
    test_fast();
    scratch_close();
    return check_end("request");
}
