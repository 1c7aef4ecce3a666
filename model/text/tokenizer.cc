/* tokenizer.cc - the token ids that the fast tokenizer of Hugging Face gives for the same model
 * file; Wan was trained with it. It differs from SentencePiece's own encoder in five ways:
 *   - names of special tokens ("</s>", "<extra_id_0>") in a prompt become those tokens
 *   - every word is split separately, and scores are summed in double: no drift in a long prompt
 *   - characters without a piece become one <unk> per run, even if the model has byte pieces
 *   - control and byte pieces in the text are matched like other pieces
 *   - a character that normalization rewrites loses its combining marks if it has less than six
 *     bytes together with them
 * SentencePiece reads the model and normalizes. If it has a rule for such a character together with
 * a mark ("k" in mathematical script with an accent), our result follows that rule and differs from
 * Hugging Face. Source: transformers 4.51 convert_slow_tokenizer.py (T5Converter), tokenizers'
 * Unigram. */
#include "model/text/tokenizer.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <limits>
#include <memory>
#include <new>
#include <sentencepiece_processor.h>
#include <string>
#include <string_view>
#include <utf8proc.h>
#include <utility>
#include <vector>

namespace
{

constexpr int extra_ids = 300; // of google/umt5-xxl: after the model's pieces, in reverse order
constexpr double unknown_penalty = 10;
constexpr std::string_view space = "\xe2\x96\x81"; // U+2581, which replaces spaces in pieces

struct special {
    std::string name;
    int id;
};

/* Number of bytes of the first UTF-8 character of s, which is not empty. A model's normalization
 * may cut the last one. */
size_t character_length(std::string_view s)
{
    const unsigned char c = static_cast<unsigned char>(s[0]);

    return std::min<size_t>(c < 0x80 ? 1 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4, s.size());
}

const utf8proc_uint8_t *bytes_of(std::string_view s)
{
    return reinterpret_cast<const utf8proc_uint8_t *>(s.data());
}

} // namespace

struct tokenizer {
    sentencepiece::SentencePieceProcessor model;
    std::vector<special> specials;
    size_t longest = 0; // bytes of the longest piece
    double unknown_score = 0;
    const char *differs = nullptr;

    status open(const std::string &bytes, const char *file);
    void encode(std::string_view text, std::vector<int> *ids) const;

  private:
    std::string drop_marks(std::string_view text) const;
    std::string normalize(std::string_view text) const;
    void encode_section(std::string_view text, std::vector<int> *ids) const;
    void encode_word(std::string_view word, std::vector<int> *ids) const;
};

status tokenizer::open(const std::string &bytes, const char *file)
{
    double lowest = 0;

    TRY(charsmap_check(bytes.data(), bytes.size(), file));
    const auto loaded = model.LoadFromSerializedProto(bytes);
    if (!loaded.ok())
        return fail(ST_FORMAT, "%s: not a SentencePiece model: %s", file, loaded.error_message());
    const int pieces = model.GetPieceSize();
    if (model.unk_id() < 0 || model.eos_id() < 0)
        return fail(ST_FORMAT, "%s: the model has no %s piece", file,
                    model.unk_id() < 0 ? "unknown" : "end-of-sentence");
    for (int id = 0; id < pieces; id++) {
        const std::string &piece = model.IdToPiece(id);
        longest = std::max(longest, piece.size());
        lowest = std::min(lowest, static_cast<double>(model.GetScore(id)));
        if (!piece.empty() && (model.IsControl(id) || model.IsUnknown(id)))
            specials.push_back({ piece, id });
    }
    for (int i = 0; i < extra_ids; i++)
        specials.push_back({ "<extra_id_" + std::to_string(i) + ">", pieces + extra_ids - 1 - i });
    unknown_score = lowest - unknown_penalty;
    return tokenizer_json_compare(&differs, file, bytes.data(), bytes.size());
}

/* The tokenizers library normalizes a grapheme cluster (a character and its combining marks) of
 * less than six bytes by the rule for its first character. This reduces such clusters to that
 * character. */
std::string tokenizer::drop_marks(std::string_view text) const
{
    std::string kept;

    for (size_t start = 0; start < text.size();) {
        utf8proc_int32_t before, next, state = 0;
        const size_t one = character_length(text.substr(start));
        size_t end = start + one;
        utf8proc_iterate(bytes_of(text) + start, static_cast<utf8proc_ssize_t>(one), &before);
        while (end < text.size()) {
            const auto left = static_cast<utf8proc_ssize_t>(text.size() - end);
            const auto more = utf8proc_iterate(bytes_of(text) + end, left, &next);
            if (utf8proc_grapheme_break_stateful(before, next, &state))
                break;
            before = next;
            end += static_cast<size_t>(more);
        }
        const std::string_view cluster = text.substr(start, end - start);
        const std::string first(cluster.substr(0, one));
        const bool rewritten = one > 1 && one < cluster.size() && cluster.size() < 6 &&
                               normalize(first) != std::string(space) + first;
        kept += rewritten ? first : cluster;
        start = end;
    }
    return kept;
}

/* The text after the model's normalization, with spaces as U+2581. SentencePiece before 0.2 has no
 * function for this; the concatenated pieces of a text are its normalized form. */
std::string tokenizer::normalize(std::string_view text) const
{
    std::vector<std::string> pieces;
    std::string joined;

    model.Encode(text, &pieces).IgnoreError(); // fails only if no model is loaded
    for (const std::string &piece : pieces) {
        const int id = model.PieceToId(piece);
        if (model.IsByte(id)) // written <0xE7>
            joined += static_cast<char>(std::stoi(piece.substr(3, 2), nullptr, 16));
        else
            joined += piece;
    }
    if (!joined.empty() && joined.compare(0, space.size(), space) != 0)
        joined.insert(0, space);
    return joined;
}

/* Splits a word into the pieces with the highest sum of scores (Viterbi); the first one found if
 * there are several. */
void tokenizer::encode_word(std::string_view word, std::vector<int> *ids) const
{
    struct node {
        double score = -std::numeric_limits<double>::infinity();
        size_t start = 0;
        int id = 0;
    };
    std::vector<node> best(word.size() + 1); // best[i]: for the word's first i bytes
    std::vector<int> backwards;

    best[0].score = 0;
    for (size_t start = 0; start < word.size();) {
        const size_t one = character_length(word.substr(start));
        bool known = false; // the character alone is a piece
        for (size_t end = start + one; end <= word.size() && end - start <= longest;) {
            const std::string_view piece = word.substr(start, end - start);
            const int id = model.PieceToId(piece);
            if (id != model.unk_id()) {
                const double score = best[start].score + static_cast<double>(model.GetScore(id));
                if (score > best[end].score)
                    best[end] = { score, start, id };
                known = known || piece.size() == one;
            }
            if (end == word.size())
                break;
            end += character_length(word.substr(end));
        }
        const double score = best[start].score + unknown_score;
        if (!known && score > best[start + one].score)
            best[start + one] = { score, start, model.unk_id() };
        start += one;
    }
    for (size_t end = word.size(); end > 0; end = best[end].start)
        if (best[end].id != model.unk_id() || backwards.empty() ||
            backwards.back() != model.unk_id())
            backwards.push_back(best[end].id);
    ids->insert(ids->end(), backwards.rbegin(), backwards.rend());
}

/* Encodes text without special tokens: word by word, each beginning with U+2581. */
void tokenizer::encode_section(std::string_view text, std::vector<int> *ids) const
{
    const std::string whole = normalize(drop_marks(text));

    for (size_t start = 0; start < whole.size();) {
        const size_t end = std::min(whole.find(space, start + 1), whole.size());
        encode_word(std::string_view(whole).substr(start, end - start), ids);
        start = end;
    }
}

void tokenizer::encode(std::string_view text, std::vector<int> *ids) const
{
    size_t section = 0;

    for (size_t i = 0; i < text.size();) {
        const special *found = nullptr;
        for (const special &s : specials)
            if (text.compare(i, s.name.size(), s.name) == 0 &&
                (found == nullptr || s.name.size() > found->name.size()))
                found = &s;
        if (found == nullptr) {
            i++;
            continue;
        }
        encode_section(text.substr(section, i - section), ids);
        ids->push_back(found->id);
        section = i += found->name.size();
    }
    encode_section(text.substr(section), ids);
}

/* Runs `body` and returns its status; exceptions become a status, since none may reach C code. */
template <typename F> static status guarded(F body)
{
    try {
        return body();
    } catch (const std::bad_alloc &) {
        return fail(ST_MEMORY, "cannot allocate memory for the tokenizer");
    } catch (const std::exception &e) {
        return fail(ST_FORMAT, "tokenizer: %s", e.what());
    } catch (...) {
        return fail(ST_FORMAT, "tokenizer: unknown exception");
    }
}

extern "C" status tokenizer_open(struct tokenizer **t, const void *bytes, size_t size,
                                 const char *from)
{
    return guarded([&] {
        auto opened = std::make_unique<tokenizer>();

        TRY(opened->open(std::string(static_cast<const char *>(bytes), size), from));
        *t = opened.release();
        return ST_OK;
    });
}

extern "C" long long tokenizer_pieces(const struct tokenizer *t)
{
    return t->model.GetPieceSize();
}

extern "C" const char *tokenizer_differs(const struct tokenizer *t)
{
    return t->differs;
}

extern "C" void tokenizer_close(struct tokenizer *t)
{
    delete t;
}

/* All ids of the prompt, of which the last is EOS. */
static status encode_all(const struct tokenizer *t, const char *prompt, std::vector<int> *ids)
{
    struct freed {
        char *text = nullptr;
        ~freed()
        {
            std::free(text);
        }
    } clean;

    TRY(text_clean(prompt, &clean.text));
    t->encode(clean.text, ids);
    ids->push_back(t->model.eos_id());
    return ST_OK;
}

extern "C" status tokenizer_encode(struct tokenizer *t, const char *prompt, int max, int *ids,
                                   int *count)
{
    return guarded([&] {
        std::vector<int> all;

        TRY(encode_all(t, prompt, &all));
        all.resize(std::min(all.size(), static_cast<size_t>(max)));
        all.back() = t->model.eos_id();
        std::copy(all.begin(), all.end(), ids);
        *count = static_cast<int>(all.size());
        return ST_OK;
    });
}

extern "C" status tokenizer_count(const struct tokenizer *t, const char *prompt, size_t *count)
{
    return guarded([&] {
        std::vector<int> all;

        TRY(encode_all(t, prompt, &all));
        *count = all.size();
        return ST_OK;
    });
}
