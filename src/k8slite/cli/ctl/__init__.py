"""``k8slite ctl``: the article's commands. They parse, call and print; ``api`` thinks."""
