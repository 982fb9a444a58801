"""Solves the fleets on stdin exactly, by HiGHS, and compares them with what Berth planned. Used by `scripts/bench exact`.

Shares nothing with the planner: the cheapest bill is written down as an integer program from the instance alone.
"""
import json
import sys
import time

import highspy

LIMIT_S = 60.0


def solve(fleet):
    """The least monthly bill in cents, or None when the solver did not prove one in time."""
    h = highspy.Highs()
    h.setOptionValue("output_flag", False)
    h.setOptionValue("time_limit", LIMIT_S)
    h.setOptionValue("mip_rel_gap", 0.0)
    h.setOptionValue("mip_abs_gap", 0.5)
    integer = highspy.HighsVarType.kInteger
    # Cells that differ in nothing are one variable: how many of them stay.
    alike = {}
    for cell in fleet["cells"]:
        alike[tuple(cell)] = alike.get(tuple(cell), 0) + 1
    room = {}
    for (kind, price, places), count in alike.items():
        keep = h.addVariable(0, count, price, type=integer)
        room.setdefault(kind, []).append(places * keep)
    for kind, price, places in fleet["offers"]:
        make = h.addVariable(0, fleet["tenants"], price, type=integer)
        room.setdefault(kind, []).append(places * make)
    lives = {kind: [] for kind in room}
    for kinds, demand in zip(fleet["groups"], fleet["demand"]):
        # Whole tenants follow from whole places: the flow needs no integers of its own.
        flows = {kind: h.addVariable(0, demand, 0) for kind in kinds if kind in room}
        for kind, flow in flows.items():
            lives[kind].append(flow)
        h.addConstr(sum(flows.values()) == demand)
    for kind, flows in lives.items():
        if flows:
            h.addConstr(sum(flows) <= sum(room[kind]))
    h.run()
    if h.getModelStatus() != highspy.HighsModelStatus.kOptimal:
        return None
    return round(h.getInfo().objective_function_value)


def main():
    sizes = {}
    for line in sys.stdin:
        fleet = json.loads(line)
        began = time.monotonic()
        best = solve(fleet)
        took = time.monotonic() - began
        one = sizes.setdefault(fleet["tenants"], {"n": 0, "unsolved": 0, "best": 0, "gaps": [], "bound": [], "s": 0.0, "plan_s": 0.0})
        one["n"] += 1
        one["s"] += took
        one["plan_s"] += fleet["plan_s"]
        if fleet["wrong"]:
            sys.exit(f"a tenant of a fleet of {fleet['tenants']} was left in the wrong place")
        if best is None:
            one["unsolved"] += 1
            continue
        planned, bound = fleet["planned_cents"], fleet["bound_cents"]
        if bound > best or planned < best:
            sys.exit(f"bound {bound}, optimum {best}, planned {planned}: this cannot be")
        one["gaps"].append(100.0 * (planned - best) / best)
        one["bound"].append(100.0 * (best - bound) / best)
        one["best"] += planned == best
    figures = {}
    gaps = []
    for tenants, one in sorted(sizes.items()):
        solved = one["gaps"]
        gaps += solved
        mean = sum(solved) / max(1, len(solved))
        figures[f"gap_pct_{tenants}"] = round(mean, 3)
        if "--json" not in sys.argv:
            print(
                f"{tenants} tenants: {one['n']} fleets, {one['unsolved']} unsolved in {LIMIT_S:.0f} s, {one['best']} planned at the optimum; "
                f"gap mean {mean:.2f} %, most {max(solved, default=0):.2f} %; the bound is at most {max(one['bound'], default=0):.2f} % "
                f"below the optimum; planner {one['plan_s'] / one['n']:.4f} s, solver {one['s'] / one['n']:.4f} s a fleet"
            )
    figures["instances"] = len(gaps)
    figures["gap_pct_mean"] = round(sum(gaps) / max(1, len(gaps)), 3)
    figures["gap_pct_most"] = round(max(gaps, default=0), 3)
    print(json.dumps({"bench": "exact", "figures": figures}))


main()
