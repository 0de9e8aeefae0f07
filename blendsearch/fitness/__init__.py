"""From a cut to its objectives: the images it is judged on, its recovery, its evaluation."""
