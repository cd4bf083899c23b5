"""Where does the time go? Runs of the user's command, and what they show."""
