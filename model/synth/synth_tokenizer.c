/* A small SentencePiece unigram model, so that random checkpoints accept prompts: special pieces
 * with umT5's ids, all printable ASCII characters, and some words and characters of English and
 * Chinese. */
#include "model/synth/synth_internal.h"
#include "model/text/spiece.h"

#include <stdlib.h>
#include <string.h>

#define META "\xe2\x96\x81" // U+2581, which SentencePiece uses for a space

/* Words, separated by spaces. They are added with META before them, and also without. */
static const char *const words =
    "the a and of to in is on with at for from by his her its are was that it as an be this two "
    "one three some many very into over under behind through across around near up down out "
    "cat cats dog dogs bird fish horse man woman child girl boy people person crowd robot dragon "
    "city street road house room table window door car train boat ship plane bridge mountain "
    "river sea ocean beach forest tree trees flower flowers grass field garden desert snow rain "
    "cloud clouds sky sun moon star stars night day morning evening sunset sunrise light lights "
    "dark shadow fire water smoke wind red green blue yellow white black golden silver bright "
    "colorful old young small big large tall long short slow slowly fast quick quickly walking "
    "walks running runs jumping jumps flying flies swimming swims dancing dances sitting sits "
    "standing stands looking looks holding holds wearing wears playing plays smiling smiles "
    "boxing fighting eating drinking singing talking riding driving turning moving falling "
    "camera video scene shot close view wide angle zoom pan tracking style cinematic realistic "
    "detailed high quality low best worst beautiful soft warm cold film movie photo picture "
    "painting anime cartoon background foreground stage spotlight ring gloves face eyes hand "
    "hands hair head body feet arms legs dress shirt hat coat shoes glasses";

static const char *const endings =
    "s ing ed er ly es al en on in an re th he or it at st nd ou ea is ti te le ar ng";

/* One piece per character: punctuation, then characters that are frequent in prompts. */
static const char *const characters =
    "，。！？、；：“”‘’（）《》【】…—·"
    "的一是在不了有和人这中大为上个国我以要他时来用们生到作地于出就分对成会可主发年动同工也能下过"
    "子说产种面而方后多定行学法所民得经十三之进着等部度家电力里如水化高自二理起小物现实加量都两体"
    "制机当使点从业本去把性好应开它合还因由其些然前外天政四日那社义事平形相全表间样与关各重新线内"
    "数正心反你明看原又么利比或但质气第向道命此变条只没结解问意建月公无系军很情者最立代想已通并提"
    "直题党程展五果料象员革位入常文总次品式活设及管特件长求老头基资边流路级少图山统接知较将组见计"
    "别她手角期根论运农指几九区强放决西被干做必战先回则任取据处队南给色光门即保治北造百规热领七海"
    "口东导器压志世金增争济阶油思术极交受联什认六共权收证改清己美再采转更单风切打白教速花带安场身"
    "车例真务具万每目至达走积示议声报斗完类八离华名确才科张信马节话米整空元况今集温传土许步群广石"
    "记需段研界拉林律叫且究观越织装影算低持音众书布复容儿须际商非验连断深难近矿千周委素技备半办青"
    "艳丽曝静态细模糊字幕风格画灰差压缩残留丑陋缺余指脸部畸毁融停杂乱背景腿倒猫狗鸟鱼树叶雪雨云阳"
    "夜晨晚红绿蓝黄黑紫橙女男孩站坐跑跳飞游舞唱笑哭吃喝城市街房屋森湖河浪沙滩镜摇晃移近远特写舞台"
    "拳击手套穿戴衣帽鞋眼睛头发微抱拿握望向阳光灯火烟雾";

struct pieces {
    struct spiece model;
    char **texts; // of the pieces so far, to detect duplicates
    int64_t count, limit;
};

/* Does nothing for a duplicate, or when the limit is reached. */
static void add_piece(struct pieces *p, const char *text, float score, enum piece_type type)
{
    for (int64_t i = 0; i < p->count; i++) {
        if (strcmp(p->texts[i], text) == 0)
            return;
    }
    if (p->count == p->limit)
        return;
    p->texts[p->count] = strdup(text);
    if (p->texts[p->count] == NULL) {
        p->model.failed = true;
        return;
    }
    p->count++;
    spiece_add(&p->model, text, strlen(text), score, type);
}

/* Adds the words of a list, each with a prefix. Scores are log probabilities: a longer
 * piece has a higher score than the sum over its characters, so it is preferred. */
static void add_words(struct pieces *p, const char *list, const char *prefix, float score)
{
    char text[64];

    while (*list != '\0') {
        const size_t length = strcspn(list, " ");

        snprintf(text, sizeof(text), "%s%.*s", prefix, (int)length, list);
        add_piece(p, text, score, PIECE_NORMAL);
        score -= 0.002f;
        list += length;
        list += *list == ' ';
    }
}

static void add_characters(struct pieces *p)
{
    const char *at = characters;
    float score = -8;

    while (*at != '\0') {
        char text[8] = { *at++ };

        for (int n = 1; (*at & 0xc0) == 0x80; n++) // the rest of this character
            text[n] = *at++;
        add_piece(p, text, score, PIECE_NORMAL);
        score -= 0.002f;
    }
}

status synth_tokenizer(int64_t vocab, char **bytes, size_t *size)
{
    const int64_t alphabet = 4 + 1 + ('~' - ' ');
    const struct spiece_normalizer normalizer = { .name = "identity",
                                                  .add_space = true,
                                                  .remove_spaces = true };
    struct pieces p = { .limit = vocab < 4096 ? vocab : 4096 };
    status st;

    if (vocab < alphabet)
        return fail(ST_USAGE, "a vocabulary of %lld is too small; use --t5_vocab %lld or more",
                    (long long)vocab, (long long)alphabet);
    p.texts = calloc((size_t)p.limit, sizeof(char *));
    if (p.texts == NULL)
        return fail(ST_MEMORY, "cannot allocate host memory for a tokenizer");
    add_piece(&p, "<pad>", 0, PIECE_CONTROL);
    add_piece(&p, "</s>", 0, PIECE_CONTROL);
    add_piece(&p, "<s>", 0, PIECE_CONTROL);
    add_piece(&p, "<unk>", 0, PIECE_UNKNOWN);
    add_piece(&p, META, -4, PIECE_NORMAL);
    for (char c = '!'; c <= '~'; c++)
        add_piece(&p, (const char[]){ c, '\0' }, -9, PIECE_NORMAL);
    add_words(&p, words, META, -6);
    add_words(&p, endings, "", -9.5f);
    add_characters(&p);
    add_words(&p, words, "", -10);
    st = spiece_finish(&p.model, &normalizer, bytes, size);
    for (int64_t i = 0; i < p.count; i++)
        free(p.texts[i]);
    free(p.texts);
    return st;
}
