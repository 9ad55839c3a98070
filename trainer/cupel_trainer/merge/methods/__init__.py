"""The ways to average, one small file each; every file names the paper it follows."""
