"""Draws figures from the JSON files of `wanmpi bench --json` and of the programs in bench/peers.

    python3 plot.py roofline OUT.svg FILE.json...     ops: rate over intensity, with the measured ceilings
    python3 plot.py scaling OUT.svg FILE.json...      a forward on 1, 2, ... GPUs, ours and the peers'
    python3 plot.py meshes OUT.svg FILE.json...       efficiency of every mesh and size of `bench scale`
    python3 plot.py table FILE.json...                the same as a table: seconds, efficiency, plan, memory
    python3 plot.py breakdown OUT.svg FILE.json...    time of a forward by op
    python3 plot.py ratio FILE.json...                prints a table of ours and the peers

Files of `wanmpi bench` and of bench/peers may be mixed. OUT may end in .png. Needs matplotlib."""
import json
import sys

OURS, THEIRS = "#c44e52", "#4c72b0"
VAES = {"vae": "vae decode", "scale_vae": "vae decode", "vae_encode": "vae encode", "scale_encode": "vae encode"}


def load(paths):
    """Returns ours as [(file's header, row)] and the peers' rows."""
    ours, peers = [], []
    for path in paths:
        with open(path) as f:
            data = json.load(f)
        if "version" in data:
            ours += [(data, row) for row in data["results"]]
        else:
            peers += data.get("results", [])  # a trace file has none
    return ours, peers


def size_of(header):
    return {"832*480": "480P", "1280*720": "720P"}.get(header["size"], header["size"])


def size_of_peer(row):
    size = row.get("size", "")
    return {"480": "480P", "720": "720P", "704": "1280*704"}.get(size, size)


def vae_of(header):
    return "2.2" if header["model"].endswith("5B") else "2.1"


def mesh_name(mesh):
    return " x ".join(f"{axis} {mesh[axis]}" for axis in ("cfg", "ring", "ulysses") if mesh[axis] > 1) + \
        (", sharded" if mesh["fsdp"] else "")


def forwards(ours, peers):
    """Returns {(test, model, size): [(name, ranks, seconds)]}."""
    found = {}
    for header, row in ours:
        vae = VAES.get(row["test"])
        mesh = row.get("mesh", header["mesh"])
        if not vae and (row["test"] not in ("dit", "scale") or (row["test"] == "scale" and mesh["cfg"] == 2)):
            continue
        name = "wanmpi " + (header.get("vae_precision", header["precision"]) if vae else mesh_name(mesh))
        model = vae_of(header) if vae else header["model"] + ("-image" if header.get("with_image") else "")
        found.setdefault((vae or "dit", model, size_of(header)), []).append(
            (name.strip(), row.get("ranks", header["ranks"]), row["median_s"]))
    for row in peers:
        name = row["peer"].split(",")[0]
        if "parallel" in row:
            name += f" {row['how']}" + ("" if row["ranks"] == 1 else f" {row['parallel']}") + f" {row['attention']}"
        elif "dtype" in row:
            name += f" {row['dtype']} {row.get('how', '')}".rstrip()
        model = row.get("vae", "2.1") if row["test"].startswith("vae") else row.get("model", "")
        found.setdefault((row["test"], model, size_of_peer(row)), []).append(
            (name, row["ranks"], row["median_s"]))
    return found


def ratio(paths):
    for (test, model, size), rows in sorted(forwards(*load(paths)).items()):
        for ranks in sorted({r for _, r, _ in rows}):
            here = [r for r in rows if r[1] == ranks]
            print(f"{test} {model} {size}, {ranks} GPU{'s' if ranks > 1 else ''}")
            for name, _, seconds in sorted(here, key=lambda r: r[2]):
                dtype = next((d for d in ("bf16", "fp32") if d in name), "")
                mine = [s for n, _, s in here if n.startswith("wanmpi") and dtype in n]
                note = "" if name.startswith("wanmpi") or not mine else \
                    f"   ours is {seconds / min(mine):.2f} times as fast"
                print(f"    {name:44s} {seconds:8.3f} s{note}")


def scaled(paths):
    """The results of `bench scale` as ({column: {(ranks, mesh): [result]}}, [(ranks, mesh)]). One rank is timed
    twice: its list has both."""
    columns, names = {}, []
    for header, row in load(paths)[0]:
        if row["test"] not in ("scale", "scale_vae", "scale_encode"):
            continue
        vae = VAES.get(row["test"], "").replace("vae", "VAE")
        column = f"{vae or header['model']} {size_of(header)}"
        name = (row["ranks"], mesh_name(row["mesh"]) or "-")
        columns.setdefault(column, {}).setdefault(name, []).append(row)
        if name not in names:
            names.append(name)
    return dict(sorted(columns.items(), reverse=True)), sorted(names, key=lambda n: n[0])


def table(paths):
    """As Markdown. A cell: seconds, efficiency; the plan's seconds over the measured ones; GB per GPU."""
    columns, names = scaled(paths)
    for kind in ("transformer", "VAE"):
        here = [c for c in columns if c.startswith("VAE") == (kind == "VAE")]
        if not here:
            continue
        print(f"\n| GPUs | {kind} | " + " | ".join(here) + " |\n|---|---|" + "---|" * len(here))
        for ranks, mesh in names:
            cells = []
            for column in here:
                rows = columns[column].get((ranks, mesh), [])
                seconds = sum(r["median_s"] for r in rows) / max(1, len(rows))
                cells.append("" if not rows else f"{seconds:.4g} s" + (
                    f" ({' and '.join('%.4g' % r['median_s'] for r in rows)})" if len(rows) > 1 else
                    f", {100 * rows[0]['efficiency']:.1f} %") +
                    f"; plan {100 * (rows[0]['plan_s'] / seconds - 1):+.1f} %; "
                    f"{rows[0]['device_bytes_peak'] / 1e9:.1f} GB" + ("" if all(r["same_bits"] for r in rows)
                                                                       else "; bits differ"))
            step = ", guided step" if mesh.startswith("cfg") else ""
            if any(cells):
                print(f"| {ranks} | {mesh}{step} | " + " | ".join(cells) + " |")


def plot_meshes(plt, paths):
    columns, names = scaled(paths)
    columns = {c: rows for c, rows in columns.items() if not c.startswith("VAE")}
    names = [n for n in names if n[0] > 1 and any(n in rows for rows in columns.values())]
    if not names:
        sys.exit("no results of `wanmpi bench scale` on several ranks in these files")
    fig, axes = plt.subplots(1, len(columns), figsize=(2.2 + 2.1 * len(columns), 1.2 + 0.24 * len(names)),
                             sharey=True, squeeze=False, layout="constrained")
    shades = {ranks: plt.get_cmap("Reds")(0.35 + 0.4 * i / max(1, len({n for n, _ in names}) - 1))
              for i, ranks in enumerate(sorted({n for n, _ in names}))}
    for ax, (column, rows) in zip(axes[0], columns.items()):
        shown = [(i, 100 * rows[n][0]["efficiency"], n[0]) for i, n in enumerate(names) if n in rows]
        bars = ax.barh([i for i, _, _ in shown], [e for _, e, _ in shown],
                       color=[shades[ranks] for _, _, ranks in shown])
        ax.bar_label(bars, [f"{e:.1f}" for _, e, _ in shown], fontsize=7, padding=1)
        ax.axvline(100, color="black", linewidth=0.8, alpha=0.3, zorder=0)
        ax.set_xlim(0, 119)
        ax.set_title(column, fontsize=9)
        ax.tick_params(labelsize=8)
    axes[0][0].set_yticks(range(len(names)), [f"{ranks} GPUs: {mesh}" for ranks, mesh in names])
    axes[0][0].invert_yaxis()
    fig.supxlabel("scaling efficiency, per cent of perfect", fontsize=9)
    return fig


def plot_roofline(plt, paths):
    ours, _ = load(paths)
    fig, ax = plt.subplots(figsize=(8, 5))
    peak = max((r["flops"] / r["median_s"] for _, r in ours if r["name"].startswith("ceiling")
                and r["test"] == "gemm"), default=0)
    copy = max((r["bytes"] / r["median_s"] for _, r in ours if r["test"] == "copy"), default=0)
    if not peak or not copy:
        sys.exit("no ceilings in these files")
    xs = [10 ** (i / 20) for i in range(-40, 100)]
    ax.loglog(xs, [min(peak, copy * x) / 1e12 for x in xs], color="black",
              label=f"measured: {peak / 1e12:.0f} TFLOP/s, {copy / 1e12:.2f} TB/s")
    for test, colour in (("gemm", OURS), ("attention", THEIRS), ("conv", "#55a868")):
        points = [(r["flops"] / r["bytes"], r["flops"] / r["median_s"] / 1e12, r["name"])
                  for _, r in ours if r["test"] == test and r["flops"] and r["bytes"]
                  and not r["name"].startswith("ceiling")]
        if points:
            ax.scatter([p[0] for p in points], [p[1] for p in points], color=colour, label=test, zorder=3)
    ax.set_xlabel("FLOPs per byte of minimum memory traffic")
    ax.set_ylabel("TFLOP/s")
    ax.set_xlim(1, 1e5)
    ax.set_ylim(peak / 1e12 / 30, peak / 1e12 * 1.5)
    ax.grid(alpha=0.3)
    ax.legend()
    return fig


def plot_scaling(plt, paths):
    found = {k: v for k, v in forwards(*load(paths)).items() if k[0] == "dit"}
    fig, axes = plt.subplots(1, max(1, len(found)), figsize=(3.2 * max(1, len(found)), 3.6), squeeze=False)
    for ax, ((_, model, size), rows) in zip(axes[0], sorted(found.items())):
        ranks = sorted({r for _, r, _ in rows})
        for program, colour, shift in (("wanmpi", OURS, -0.2), ("diffusers", THEIRS, 0.2)):
            best = [(i, n, min(s for name, r, s in rows if r == n and name.startswith(program)))
                    for i, n in enumerate(ranks)
                    if any(r == n and name.startswith(program) for name, r, _ in rows)]
            bars = ax.bar([i + shift for i, _, _ in best], [s for _, _, s in best], 0.38, color=colour,
                          label=program)
            ax.bar_label(bars, [f"{s:.3g}" for _, _, s in best], fontsize=8)
            for i, n, _ in best[1:]:  # perfect scaling from the smallest number of GPUs
                ideal = best[0][2] * best[0][1] / n
                ax.plot([i + shift - 0.19, i + shift + 0.19], [ideal, ideal], ":", color="black")
        ax.set_title(f"{model} {size}")
        ax.set_xticks(range(len(ranks)), [str(n) for n in ranks])
        ax.set_xlim(-0.8, len(ranks) - 0.2)
        ax.margins(y=0.12)
        ax.set_xlabel("GPUs (dotted: perfect scaling)")
        ax.grid(axis="y", alpha=0.3)
    axes[0][0].set_ylabel("seconds per forward")
    axes[0][-1].legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, fontsize=8)
    fig.tight_layout()
    return fig


def plot_breakdown(plt, paths):
    files = []
    for path in paths:
        ours, _ = load([path])
        parts = {}
        for header, row in ours:
            if row["test"] == "dit part" and "family" in row:
                communication = row["family"] in ("all-to-all", "all-gather", "exchange", "send-recv",
                                                  "send/receive", "broadcast")
                family = row["family"] + (" (not hidden)" if communication else "")
                seconds = row.get("waited_s", 0) if communication else row["median_s"]
                parts[family] = parts.get(family, 0) + seconds
        if parts:
            files.append((f"{header['model']} {size_of(header)} x{header['ranks']}", parts))
    names = sorted({n for _, parts in files for n in parts},
                   key=lambda n: -sum(parts.get(n, 0) for _, parts in files))
    fig, ax = plt.subplots(figsize=(9, 2 + 0.5 * len(files)), layout="constrained")
    colours = plt.get_cmap("tab20")
    left = [0.0] * len(files)
    for i, name in enumerate(names):
        widths = [parts.get(name, 0) for _, parts in files]
        ax.barh([f for f, _ in files], widths, left=left, color=colours(i % 20), label=name)
        left = [a + b for a, b in zip(left, widths)]
    ax.set_xlabel("seconds per forward")
    fig.legend(ncols=4, fontsize=7, loc="outside lower center")
    return fig


def main():
    if len(sys.argv) >= 3 and sys.argv[1] == "ratio":
        return ratio(sys.argv[2:])
    if len(sys.argv) >= 3 and sys.argv[1] == "table":
        return table(sys.argv[2:])
    kinds = {"meshes": plot_meshes, "roofline": plot_roofline, "scaling": plot_scaling, "breakdown": plot_breakdown}
    if len(sys.argv) < 4 or sys.argv[1] not in kinds:
        sys.exit(__doc__)
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    plt.rcParams["svg.hashsalt"] = "wanmpi"
    fig = kinds[sys.argv[1]](plt, sys.argv[3:])
    fig.savefig(sys.argv[2], bbox_inches="tight")


if __name__ == "__main__":
    main()
