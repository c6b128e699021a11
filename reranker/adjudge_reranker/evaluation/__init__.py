"""How well does a critic agree with labels? What `adjudge eval` computes, for programs.

    items = importers.load_items("pairs.jsonl")
    judged = list(judge.judge_items(client, items, judge.Question()))
    print(report.build_report(judged).overall.pairs.accuracy)

`records` are the labelled items, `importers` read them from files, `judge` asks a server, `metrics`
are pure functions from arrays to figures, `report` puts them together and `plot` draws them. The
libraries behind it are an extra (`adjudge[eval]`); nothing else in the client imports them.
"""
