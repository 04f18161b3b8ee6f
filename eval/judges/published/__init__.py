"""Published judges by weights from a file: DINOv2, named CLIPs, the LAION MLP, ImageReward, VQAScore, GenEval."""
