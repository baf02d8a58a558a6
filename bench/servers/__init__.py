"""What Playhead is compared with, each a process of its own."""
