"""Local page on which a person drops files and reads the verdicts; nothing of it outlives the command."""
