"""Examples at the end of each verb's help: commands and their purposes."""

EXAMPLES = {
    "init": (
        ("blendsearch init", "a config of the digits example, to change"),
        ("blendsearch init --example clutter", "the config of the example of the README"),
        ("blendsearch init resnet.pt --data photos --budget 30%", "a config for your checkpoint and your images"),
    ),
    "inspect": (
        ("blendsearch inspect config.yaml", "what a search can cut and reach, and how long it takes"),
        ("blendsearch inspect latest", "what the last run found out about its network"),
    ),
    "criteria": (
        ("blendsearch criteria", "all criteria, with what they compute and where they come from"),
        ("blendsearch criteria config.yaml --map", "which of them rank the channels of this network alike"),
        ("blendsearch criteria --run latest --map map.svg", "the same, from the stored scores of a run"),
    ),
    "probe": (
        ("blendsearch probe config.yaml", "the compression up to which training recovers the accuracy"),
        ("blendsearch probe config.yaml --factors 2,4,8 --rules 1", "a quicker one"),
    ),
    "search": (
        ("blendsearch search clutter", "a built-in example, in about two minutes"),
        ("blendsearch search config.yaml --budget 30%", "your network, with 30 % of its MACs"),
        ("blendsearch search config.yaml --budget 20%,60% --ray local", "a Pareto front, by processes of this machine"),
        ("blendsearch search config.yaml --set search.evaluations=500 --set seed=1", "other values of fields"),
    ),
    "runs": (
        ("blendsearch runs", "the runs in the folder runs"),
        ("blendsearch runs --runs /data/runs --json", "those of another folder, for a program"),
    ),
    "status": (("blendsearch status latest", "how far the last search is, and when it ends"),),
    "front": (
        ("blendsearch front latest", "the network to take, and the best of the others"),
        ("blendsearch front latest --all --out front.svg", "all of them, with a picture"),
    ),
    "show": (
        ("blendsearch show latest", "the best network of the last run"),
        ("blendsearch show latest knee --json", "the one at the knee of the front, for a program"),
    ),
    "report": (("blendsearch report latest --out report.html", "a page to send to others"),),
    "serve": (
        ("blendsearch serve", "a page at http://127.0.0.1:8484 that follows searches"),
        ("blendsearch serve --port 0 --data /data", "at any free port; searches may be started on data of this folder"),
    ),
    "resume": (
        ("blendsearch resume latest", "the search that stopped last"),
        ("blendsearch resume latest --set search.evaluations=400", "more evaluations than first planned"),
    ),
    "fork": (("blendsearch fork latest --set budget=25%", "another budget, from the evaluated networks of a run"),),
    "compare": (
        ("blendsearch compare latest", "all controls, with three seeds"),
        ("blendsearch compare latest --controls random,scratch --seeds 5", "two of them, with more seeds"),
        ("blendsearch compare latest --controls none", "the stored comparison, again"),
    ),
    "export": (
        ("blendsearch export latest", "the best network, as a folder of its own"),
        ("blendsearch export latest knee --out small --onnx", "the one at the knee of the front, also as ONNX"),
        ("blendsearch export latest --out small8 --int8", "in 8-bit integers too, with the accuracy that they keep"),
    ),
    "submit": (
        ("blendsearch submit config.yaml --address http://HEAD:8265 --name big-one", "a search on a Ray cluster"),
    ),
    "job": (
        ("blendsearch job logs JOB --address http://HEAD:8265", "what the search of a job has printed"),
        ("blendsearch job stop JOB --address http://HEAD:8265", "its end; submit with the same --name resumes it"),
    ),
    "tag": (
        ("blendsearch tag latest candidate", "a tag, by which lists are searched"),
        ("blendsearch tag latest --archive", "hidden in lists, and kept"),
    ),
    "delete": (
        ("blendsearch delete digits-net-1 digits-net-2", "two runs, after a question"),
        ("blendsearch delete latest --yes", "the last run, without one"),
    ),
    "schema": (("blendsearch schema --out blendsearch.schema.json", "the file that a config names to an editor"),),
    "completion": (
        ("blendsearch completion bash", "a script for ~/.bashrc"),
        ("blendsearch completion fish", "a script for config.fish"),
    ),
}

FIRST_STEPS = (
    ("blendsearch search", "the built-in example, in about two minutes"),
    ("blendsearch init resnet.pt --data photos", "a config for your own network"),
    ("blendsearch VERB --help", "the options of a verb, with examples"),
)
"""Examples at the end of `blendsearch --help`."""
